"""The bundled model: golden captions, its size, and what its card and its decoding promise."""

import re
from pathlib import Path

import pytest
import yaml

from captioner import Captioner
from captioner.checkpoint import BUNDLED, read_checkpoint
from captioner.decoding import DecodingOptions
from captioner.evaluation.evaluate import evaluate

EXAMPLES = Path(__file__).parents[1] / "examples"
FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"

GOLDEN = {
    "astronaut.jpg": "a man in a red shirt is standing in front of a crowd",
    "cat.jpg": "a child is looking at the camera",
    "coffee.jpg": "a brown and white dog is sitting on a wooden bench",
    "officer.jpg": "a man in a black and white hat is standing in front of a white wall",
    "pagoda.jpg": "a group of people stand in front of a red building",
    "photographer.jpg": "a man in a black jacket is holding a video camera",
    "rocket.jpg": "a man in a red shirt is standing in front of a red building",
}


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_golden_captions(backend):
    captions = Captioner.from_pretrained(backend=backend).caption([EXAMPLES / name for name in GOLDEN])
    assert [caption.text for caption in captions] == list(GOLDEN.values())


def test_the_readmes_gallery_shows_what_it_says():
    readme = (EXAMPLES.parent / "README.md").read_text()
    shown = dict(re.findall(r'^\| <img src="examples/(\S+)"[^|]*\| (.*?) \|', readme, re.MULTILINE))
    assert shown == GOLDEN


def test_both_backends_agree_on_every_alternative_and_word():
    images = sorted(EXAMPLES.glob("*.jpg"))
    onnx, torch = (
        Captioner.from_pretrained(backend=name).caption(images, beam_size=5, alternatives=5)
        for name in ("onnx", "torch")
    )
    for ours, theirs in zip(onnx, torch, strict=True):
        for one, other in zip(ours.alternatives, theirs.alternatives, strict=True):
            assert one.text == other.text
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
            assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-4)
            assert one.attention == pytest.approx(other.attention, abs=1e-4)


def test_it_takes_at_most_32_mb_and_says_what_it_is():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 32e6
    card = (BUNDLED / "README.md").read_text()
    for part in ("Flickr8k", "research", "Apache", "CIDEr-D", "configs/flickr8k.yaml", "bad at"):
        assert part in card


def test_its_decoding_is_that_of_the_config_that_made_it():
    config = yaml.safe_load((Path(__file__).parents[1] / "configs" / "flickr8k.yaml").read_text())
    assert read_checkpoint(BUNDLED).decoding == DecodingOptions(**config["model"]["decoding"])


@pytest.mark.slow
@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs Flickr8k beside the repository")
def test_it_reaches_its_validation_scores():
    scores = evaluate(FLICKR8K / "annotations" / "captions_val.json", FLICKR8K / "images").scores
    assert scores["BLEU-4"] >= 0.23
    assert scores["CIDEr-D"] >= 0.60
