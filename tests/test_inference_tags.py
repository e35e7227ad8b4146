"""Tags from the encoder's classifier, in the forward pass of captioning."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import softmax

from captioner.backends.ensemble import Ensemble
from captioner.backends.onnx import OnnxBackend
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import WEIGHTS, describe, read_checkpoint
from captioner.cli import main
from captioner.errors import CheckpointError, ConfigError, ImageError
from captioner.export import save_checkpoint
from captioner.inference import Captioner
from captioner.tags import TagConfig, Tagger, TagTable

TEMPERATURE = 2.0  # of the checkpoint that tests share


@pytest.fixture(scope="module")
def pictures(picture: Callable[[int], Image.Image]) -> list[Image.Image]:
    return [picture(number) for number in range(8)]


@pytest.fixture(scope="module")
def pixels(captioner: Captioner, pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([captioner.preprocessing(picture) for picture in pictures])


@pytest.fixture(scope="module")
def on_torch(checkpoint_folder: Path) -> TorchBackend:
    return TorchBackend.from_checkpoint(read_checkpoint(checkpoint_folder))


@pytest.fixture
def without_classifier(on_torch: TorchBackend, captioner: Captioner) -> Captioner:
    """The same model, live and without its classifier."""
    model = copy.deepcopy(on_torch).model
    model.drop_classifier()
    return Captioner(
        TorchBackend(model), captioner.vocabulary, captioner.preprocessing, captioner.decoding
    )


def test_scores_are_linear_in_the_mean_of_the_region_features(
    checkpoint_folder: Path, on_torch: TorchBackend, pixels: np.ndarray
) -> None:
    weights = load_file(checkpoint_folder / WEIGHTS)
    with torch.inference_mode():
        features = on_torch.model.encoder(torch.from_numpy(pixels)).numpy().mean(axis=1)
    assert weights["classifier.weight"].dtype == np.float16
    expected = (
        features @ weights["classifier.weight"].astype(np.float32).T + weights["classifier.bias"]
    )
    for backend in (on_torch, OnnxBackend(checkpoint_folder)):
        scores = backend.encode(pixels).classes
        assert scores is not None
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_captions_have_the_tags_of_their_images(
    checkpoint_folder: Path,
    captioner: Captioner,
    on_torch: TorchBackend,
    pictures: list[Image.Image],
    pixels: np.ndarray,
) -> None:
    scores = on_torch.encode(pixels).classes
    assert scores is not None
    expected = Tagger(TagTable.imagenet(), TEMPERATURE).tags(scores)
    assert len({tags[0].noun for tags in expected if tags}) > 1, "or the test would see little"
    for each in (captioner, Captioner.from_pretrained(checkpoint_folder, backend="torch")):
        captions = each.caption(pictures, alternatives=2, batch_size=3)
        found = [caption.tags for caption in captions]
        assert [[tag.noun for tag in tags] for tags in found] == [
            [tag.noun for tag in tags] for tags in expected
        ]
        for tags, others in zip(found, expected, strict=True):
            assert [tag.probability for tag in tags] == pytest.approx(
                [tag.probability for tag in others], abs=1e-4
            )
        assert all(one.tags == caption.tags for caption in captions for one in caption.alternatives)


def test_tagging_alone_gives_the_same(
    captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    expected = [caption.tags for caption in captioner.caption(pictures, batch_size=4)]
    assert captioner.tag(pictures, batch_size=4) == expected
    (single,) = captioner.tag(pictures[0])
    assert [tag.noun for tag in single] == [tag.noun for tag in expected[0]]
    likely, everything = (
        captioner.tag(pictures, threshold=0.7),
        captioner.tag(pictures, threshold=0, limit=2),
    )
    assert all(tag.probability >= 0.7 for tags in likely for tag in tags)
    assert [len(tags) for tags in everything] == [2] * len(pictures)
    assert captioner.tag([]) == []
    with pytest.raises(ConfigError, match="threshold of tags is 2"):
        captioner.tag([], threshold=2)
    (tmp_path / "notes.jpg").write_text("no image")
    with pytest.raises(ImageError, match="notes"):
        captioner.tag([pictures[0], tmp_path / "notes.jpg"])


def test_a_model_without_a_classifier_gives_none(
    without_classifier: Captioner, captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    (caption,) = without_classifier.caption(pictures[0])
    assert caption.tags == ()
    assert caption.to_dict()["tags"] == []
    with pytest.raises(ConfigError, match="has no classifier"):
        without_classifier.tag(pictures[0])
    model = without_classifier.backend.model  # type: ignore[attr-defined]
    checkpoint = save_checkpoint(
        tmp_path / "model",
        model,
        vocabulary=captioner.vocabulary,
        preprocessing=captioner.preprocessing,
        decoding=captioner.decoding,
        card="",
        onnx=False,
    )
    assert checkpoint.tags is describe(checkpoint)["tags"] is None
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["format_version"] == 1, "earlier versions read it"
    assert "tags" not in config
    assert Captioner.from_pretrained(tmp_path / "model").tags is None


def test_an_ensemble_has_the_mean_of_the_calibrated_probabilities(
    on_torch: TorchBackend, pixels: np.ndarray
) -> None:
    other = copy.deepcopy(on_torch)
    assert other.model.classifier is not None
    with torch.no_grad():
        other.model.classifier.weight.mul_(-1)
    first, second = (backend.encode(pixels).classes for backend in (on_torch, other))
    assert first is not None
    assert second is not None
    together = Ensemble([on_torch, other, on_torch], [2.0, 5.0, None]).encode(pixels).classes
    expected = (softmax(first / 2.0, axis=1) + softmax(second / 5.0, axis=1)) / 2
    assert together is not None
    np.testing.assert_allclose(np.exp(together), expected, atol=2e-5)
    assert Ensemble([on_torch]).encode(pixels).classes is None


def test_of_equal_models_tags_are_those_of_the_model(
    checkpoint_folder: Path, captioner: Captioner, pictures: list[Image.Image]
) -> None:
    together = Captioner.from_pretrained([checkpoint_folder] * 2)
    for tags, others in zip(together.tag(pictures), captioner.tag(pictures), strict=True):
        assert [tag.noun for tag in tags] == [tag.noun for tag in others]
        assert [tag.probability for tag in tags] == pytest.approx(
            [tag.probability for tag in others], abs=1e-5
        )


def test_the_command_prints_tags_behind_the_caption(
    checkpoint_folder: Path,
    captioner: Captioner,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(paths, pictures, strict=False):
        picture.save(path)
    captions = captioner.caption(paths)
    said = [
        ", ".join(f"{tag.noun} {tag.probability:.2f}" for tag in caption.tags)
        for caption in captions
    ]
    model = ["--model", str(checkpoint_folder)]
    assert main(["caption", *map(str, paths), "--tags", *model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{p}\t{c.text}\t{tags}" for p, c, tags in zip(paths, captions, said, strict=True)
    ]
    assert main(["caption", str(paths[0]), "--json", *model]) == 0
    printed = json.loads(capsys.readouterr().out)["tags"]
    assert [set(tag) for tag in printed] == [{"noun", "probability"}] * len(captions[0].tags)
    assert [tag["noun"] for tag in printed] == [tag.noun for tag in captions[0].tags]


def test_tags_of_a_file_that_lacks_the_classifier_are_refused(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 2
    assert config["tags"] == {"table": "imagenet", "temperature": TEMPERATURE}
    (folder / "config.json").write_text(
        json.dumps({**config, "tags": {"table": "imagenet", "temperature": -1}})
    )
    with pytest.raises(CheckpointError, match="temperature is -1"):
        read_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 1}))
    with pytest.raises(CheckpointError, match="unknown keys: tags"):
        read_checkpoint(folder)
    del config["tags"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has the unknown tensor classifier"):
        TorchBackend.from_checkpoint(read_checkpoint(folder))


@pytest.mark.parametrize("kind", ["onnx", "torch", "ensemble"])
def test_captions_say_the_tags_that_are_sure(
    kind: str, checkpoint_folder: Path, pictures: list[Image.Image], pixels: np.ndarray
) -> None:
    if kind == "ensemble":
        captioner = Captioner.from_pretrained([checkpoint_folder, checkpoint_folder])
    else:
        captioner = Captioner.from_pretrained(checkpoint_folder, backend=kind)
    scores = captioner.backend.encode(pixels).classes
    assert scores is not None
    words = ("dog", "red")
    names = [f"no word {number}" for number in range(scores.shape[1])]
    sure = scores.argmax(axis=1)
    assert len({*sure}) > 1, "or the test would see little"
    for number, place in enumerate(dict.fromkeys(sure.tolist())):
        names[place] = words[number] if number < len(words) else names[place]
    captioner.tags = TagConfig(tuple(names), 1e-6)
    plain = captioner.caption(pictures, batch_size=5)
    changed = 0
    for picture, place, before, after in zip(
        pictures,
        sure,
        plain,
        captioner.caption(pictures, batch_size=5, say_tags=True),
        strict=True,
    ):
        noun = names[place]
        if noun not in words or noun in before.text.split():
            assert after.text == before.text
        else:
            changed += 1
            (asked,) = captioner.caption([picture], include=[noun])
            assert after.text == asked.text and noun in after.text.split()
            assert after.log_prob == pytest.approx(asked.log_prob, abs=1e-4)
    assert changed, "or the test would see nothing"
