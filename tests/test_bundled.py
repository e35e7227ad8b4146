"""The bundled model: golden captions, its size, and what its card and its decoding promise."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from captioner import Captioner
from captioner.annotations.records import load_records
from captioner.backends import onnx
from captioner.checkpoint import BUNDLED, read_checkpoint
from captioner.decoding import DecodingOptions, scoring, search
from captioner.evaluation.assess import score
from captioner.evaluation.captioning import Captioning
from captioner.evaluation.evaluate import evaluate

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDE = Path(__file__).parents[2] / "shared" / "data" / "wide"
FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"

GOLDEN = {
    "astronaut.jpg": "a man in a red shirt pouring a drink into a glass",
    "cat.jpg": "a close up of a striped cat with green eyes",
    "coffee.jpg": "a cup of coffee on a red saucer on a wooden table",
    "officer.jpg": "a man in a black suit and tie standing in front of a microphone",
    "pagoda.jpg": "an old wooden temple with a red roof and green flowers",
    "photographer.jpg": "a man taking a picture with a camera on a tripod",
    "rocket.jpg": "a tall metal tower lit up at night under a blue sky",
}


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_golden_captions(backend):
    captions = Captioner.from_pretrained(backend=backend).caption(
        [EXAMPLES / name for name in GOLDEN]
    )
    assert [caption.text for caption in captions] == list(GOLDEN.values())


class ShortIntegers:
    """NumPy 1 on Windows, where integers have 32 bits unless asked for 64."""

    def __getattr__(self, name):
        return getattr(np, name)

    def arange(self, *bounds, dtype=np.int32):
        return np.arange(*bounds, dtype=dtype)

    def full(self, shape, value, dtype=None):
        short = np.int32 if type(value) is int else None
        return np.full(shape, value, dtype or short)

    def array(self, values, dtype=None):
        made = np.array(values, dtype)
        return made.astype(np.int32) if dtype is None and made.dtype == np.int64 else made


def test_it_captions_where_integers_have_32_bits(monkeypatch):
    for module in (search, scoring, onnx):
        monkeypatch.setattr(module, "np", ShortIntegers())
    captioner = Captioner.from_pretrained(backend="onnx")
    (caption,) = captioner.caption(EXAMPLES / "cat.jpg")
    assert caption.text == GOLDEN["cat.jpg"]
    words = [captioner.vocabulary.index(word) for word in caption.words]
    (encoded,) = captioner.encode(EXAMPLES / "cat.jpg")
    for scored in (scoring.log_probs_of, scoring.log_probs_of_each):
        (log_probs,) = scored(encoded.again(np.array([0])), [words])
        assert log_probs == pytest.approx(caption.word_log_probs, abs=1e-4)


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
    for part in (
        "Flickr8k",
        "research",
        "Apache",
        "CIDEr-D",
        "--config everyday",
        "vision-language",
        "bad at",
    ):
        assert part in card


def test_its_decoding_is_that_of_the_config_that_made_it():
    config = yaml.safe_load((Path(__file__).parents[1] / "configs" / "everyday.yaml").read_text())
    assert read_checkpoint(BUNDLED).decoding == DecodingOptions(**config["model"]["decoding"])


@pytest.mark.slow
@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs Flickr8k beside the repository")
def test_it_reaches_its_validation_scores():
    captioning = Captioning(decoding={"style": "flickr8k"})
    annotations = FLICKR8K / "annotations" / "captions_val.json"
    scores = evaluate(annotations, FLICKR8K / "images", captioning=captioning).scores
    assert scores["BLEU-4"] >= 0.21
    assert scores["CIDEr-D"] >= 0.565


@pytest.mark.slow
@pytest.mark.skipif(not WIDE.is_dir(), reason="needs the everyday photos beside the repository")
def test_it_describes_everyday_photos():
    """The 158 photos of two files together, as CIDEr-D depends on the set."""
    mini = WIDE.with_name("coco-mini")
    records = [
        *load_records(WIDE / "annotations" / "captions_val.json", WIDE / "images"),
        *load_records(mini / "annotations" / "captions_train2017.json", mini / "train2017"),
    ]
    captions = Captioner.from_pretrained().caption([record.path for record in records])
    references = {str(record.path): list(record.captions) for record in records}
    said = {
        str(record.path): caption.text for record, caption in zip(records, captions, strict=True)
    }
    assert len(said) == 158
    assert score(references, said).scores["CIDEr-D"] >= 0.685


def test_it_tags_what_its_classifier_is_sure_of():
    tags = Captioner.from_pretrained().tag(
        [EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"], threshold=0.5
    )
    assert [[tag.noun for tag in each] for each in tags] == [["cat"], ["coffee"]]


@pytest.mark.parametrize("style", ["", "flickr8k"])
def test_it_says_how_sure_it_is(style):
    captions = Captioner.from_pretrained().caption(sorted(EXAMPLES.glob("*.jpg")), style=style)
    confidences = [caption.confidence for caption in captions]
    assert all(0 < confidence < 1 for confidence in confidences)
    assert max(confidences) - min(confidences) > 0.1


def test_its_styles_speak_differently():
    captioner = Captioner.from_pretrained()
    photos = sorted(EXAMPLES.glob("*.jpg"))
    plain, detailed, flickr8k = (
        [caption.text for caption in captioner.caption(photos, style=style)]
        for style in ("", "detailed", "flickr8k")
    )
    for style in (detailed, flickr8k):
        assert sum(one != other for one, other in zip(plain, style, strict=True)) > len(photos) / 2
