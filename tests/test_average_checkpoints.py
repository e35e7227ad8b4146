"""scripts/average_checkpoints.py: the mean of weights, read by both backends."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from captioner import Captioner
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import (
    BUNDLED,
    CONFIG,
    FORMAT_VERSION,
    VOCABULARY,
    WEIGHTS,
    read_checkpoint,
)
from captioner.events.config import EventConfig
from captioner.export import save_checkpoint
from scripts.average_checkpoints import main
from tests.clip_models import save_clip_model
from tests.test_export import save_changed

PHOTO = Path(__file__).parents[1] / "examples" / "cat.jpg"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint with other weights than the bundled one."""
    folder = shutil.copytree(BUNDLED, tmp_path / "other")
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name: (tensor * 0.9).astype(tensor.dtype) for name, tensor in weights.items()},
        folder / WEIGHTS,
    )
    return folder


def test_weights_are_averaged_and_both_backends_agree_on_them(other: Path, tmp_path: Path) -> None:
    assert main([str(tmp_path / "mean"), str(BUNDLED), str(other)]) == 0
    first, second, mean = (
        load_file(folder / WEIGHTS) for folder in (BUNDLED, other, tmp_path / "mean")
    )
    assert mean.keys() == first.keys()
    for name, tensor in mean.items():
        expected = (first[name].astype(np.float32) + second[name].astype(np.float32)) / 2
        np.testing.assert_allclose(tensor, expected, rtol=2e-3, atol=1e-6)
    assert read_checkpoint(BUNDLED).confidence is not None
    assert read_checkpoint(tmp_path / "mean").confidence is None, "of the captions of one of them"
    assert read_checkpoint(tmp_path / "mean").tags == read_checkpoint(BUNDLED).tags
    onnx, torch = (
        Captioner.from_pretrained(tmp_path / "mean", backend=name).caption(PHOTO)[0]
        for name in ("onnx", "torch")
    )
    assert onnx.text == torch.text
    assert onnx.log_prob == pytest.approx(torch.log_prob, abs=1e-3)


def test_a_fine_tuned_model_is_averaged_with_the_one_before(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    """WiSE-FT; words that the one before lacks have the fine-tuned model's weights."""
    before = read_checkpoint(checkpoint_folder)
    model = TorchBackend.from_checkpoint(before).model
    words = len(before.vocabulary)
    model.enlarge_vocabulary(words + 1)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_checkpoint(
        tmp_path / "tuned",
        model,
        vocabulary=before.vocabulary.extended(["zorb"]),
        preprocessing=before.preprocessing,
        decoding=before.decoding,
        card="",
        onnx=False,
    )
    call = [str(tmp_path / "mean"), str(tmp_path / "tuned"), str(checkpoint_folder)]
    assert main(["--alpha", "0.3", *call]) == 0
    mean, tuned, old = (
        load_file(folder / WEIGHTS)
        for folder in (tmp_path / "mean", tmp_path / "tuned", checkpoint_folder)
    )
    for name, tensor in mean.items():
        rows = len(old[name])
        expected = 0.3 * tuned[name][:rows].astype(np.float64) + 0.7 * old[name]
        np.testing.assert_allclose(tensor[:rows], expected, rtol=2e-3, atol=1e-3)
        assert np.array_equal(tensor[rows:], tuned[name][rows:])
    assert len(mean["decoder.embedding.weight"]) == words + 1
    assert read_checkpoint(tmp_path / "mean").vocabulary.words[-1] == "zorb"


@pytest.mark.parametrize("alpha", ["1.5", "-0.1"])
def test_a_share_is_from_0_to_1(
    alpha: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--alpha", alpha, str(tmp_path / "mean"), "bundled", "bundled"]
    assert main(call) == 1
    assert "expected a share from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("order", [1, -1])
def test_models_with_other_tags_are_not_averaged(
    order: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled = read_checkpoint(None)
    model = TorchBackend.from_checkpoint(bundled).model
    model.drop_classifier()
    save_changed(tmp_path / "untagged", model, bundled, onnx=False)
    assert main([str(tmp_path / "mean"), *["bundled", str(tmp_path / "untagged")][::order]]) == 1
    assert "differ in their tags" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_nothing_is_left_of_an_average_that_fails(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the first one's weights would look like the average."""

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "asarray", fail)  # when the first tensor is written
    with pytest.raises(OSError, match="the disk is full"):
        main([str(tmp_path / "mean"), str(BUNDLED), str(other)])
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_cannot_be_averaged_is_an_error(
    other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(other), str(BUNDLED), str(other)]) == 1
    assert "exists; choose another folder" in capsys.readouterr().err
    words = (other / VOCABULARY).read_text(encoding="utf-8")
    (other / VOCABULARY).write_text(words.replace('"cat"', '"katze"'), encoding="utf-8")
    assert main([str(tmp_path / "mean"), str(BUNDLED), str(other)]) == 1
    assert "differ in their vocabulary" in capsys.readouterr().err
    assert main([str(tmp_path / "mean")]) == 2


def test_checkpoints_whose_weights_mean_different_things_are_refused(
    checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = shutil.copytree(checkpoint_folder, tmp_path / "without")
    weights = load_file(without / WEIGHTS)
    del weights["classifier.weight"], weights["classifier.bias"]
    save_file(weights, without / WEIGHTS)
    change_config(without, tags=None)
    other_classes = shutil.copytree(checkpoint_folder, tmp_path / "other")
    table = [f"class {number}" for number in range(1000)]
    change_config(other_classes, tags={"table": table, "temperature": 1.0})
    for folder in (without, other_classes):
        assert main([str(tmp_path / "mean"), str(checkpoint_folder), str(folder)]) == 1
        assert "differ in their tags" in capsys.readouterr().err
    clips = save_clip_model(
        tmp_path / "clips", "lrcn", onnx=False, events=EventConfig(("wave", "jump"), 1.0)
    )
    swapped = shutil.copytree(clips, tmp_path / "swapped")
    change_config(swapped, events={"labels": ["jump", "wave"], "seconds": 1.0})
    assert main([str(tmp_path / "mean"), str(clips), str(swapped)]) == 1
    assert "differ in their events" in capsys.readouterr().err
    small = shutil.copytree(checkpoint_folder, tmp_path / "small")
    change_config(small, quantized={"cnn": [5, 6, 8]})
    assert main([str(tmp_path / "mean"), str(small), str(small)]) == 1
    assert "is quantized" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def change_config(folder: Path, **sections: object) -> None:
    """Change sections of a checkpoint's config; None removes one."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= sections | {"format_version": FORMAT_VERSION}
    config = {key: section for key, section in config.items() if section is not None}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
