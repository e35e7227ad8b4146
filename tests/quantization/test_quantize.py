"""Quantized bundles: they compute nearly what their model did, and say that they are quantized."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from captioner.backends.onnx import OnnxBackend
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.cli import main
from captioner.errors import CheckpointError
from captioner.inference import Captioner
from captioner.preprocessing import Preprocessing
from captioner.quantization import PHOTOS, quantize
from captioner.vocabulary import START
from tests.clip_models import save_clip_model
from tests.test_export import make_model, save, save_changed


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Image.Image]) -> list:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        picture(number).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def bundle(
    checkpoint_folder: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return quantize(checkpoint_folder, tmp_path_factory.mktemp("int8") / "small", photos).folder


def test_the_bundle_computes_nearly_what_its_model_does(
    checkpoint_folder: Path, bundle: Path, photos: list[Path], captioner: Captioner
) -> None:
    pixels = np.stack([captioner.preprocessing(Image.open(p).convert("RGB")) for p in photos])
    folders = (checkpoint_folder, bundle)
    sessions = [onnxruntime.InferenceSession(folder / "encoder.onnx") for folder in folders]
    exact, near = (session.run(None, {"pixels": pixels}) for session in sessions)
    for output, one, other in zip(sessions[0].get_outputs(), exact, near, strict=True):
        if output.name == "classes":  # here, small differences of large numbers
            continue
        error = np.linalg.norm(one - other) / np.linalg.norm(one)
        assert error < 0.25, output.name
        assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(one), rel=0.1)
    steps = [
        OnnxBackend(folder)
        .encode(pixels)
        .step(np.arange(8)[:, None], np.ones((8, 1), np.int64), 1, all_log_probs=True)
        for folder in folders
    ]
    first, second = (np.exp(step.all_log_probs) for step in steps)
    assert np.abs(first - second).sum(axis=-1).max() < 1  # of 2
    assert Captioner.from_pretrained(bundle).caption(photos[0])[0].text


def test_the_bundle_says_that_it_is_quantized(
    checkpoint_folder: Path, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    config = json.loads((bundle / "config.json").read_text())
    assert config["format_version"] == 3
    assert read_checkpoint(bundle).quantized == config["quantized"]
    assert "## Quantized" in (bundle / "README.md").read_text()
    sizes = [
        (folder / "model.safetensors").stat().st_size for folder in (checkpoint_folder, bundle)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    graph = onnx.load(bundle / "encoder.onnx", load_external_data=False).graph
    kept = {entry.name for entry in (*graph.output, *graph.initializer)}
    assert max(len(name) for node in graph.node for name in {*node.output} - kept) <= 4
    with pytest.raises(CheckpointError, match="quantized and requires ONNX Runtime"):
        Captioner.from_pretrained(bundle, backend="torch")
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize(bundle, tmp_path / "twice", photos)
    with pytest.raises(CheckpointError, match="No photos for calibration"):
        quantize(checkpoint_folder, tmp_path / "none", [])


def test_the_command_calibrates_with_evenly_spaced_photos(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.quantization.PHOTOS", 2)
    for number in (0, 2):
        shutil.copy(photos[number], tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_text("not read")
    call = ["export", checkpoint_folder, "--int8", "--calibrate", tmp_path]
    assert main([*map(str, call), "--output", str(tmp_path / "small")]) == 0
    assert read_checkpoint(tmp_path / "small").quantized


def test_the_command_takes_the_current_folder(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("captioner.quantization.PHOTOS", 1)
    assert main(["export", ".", "--int8", "--calibrate", str(photos[0].parent)]) == 0
    assert read_checkpoint(tmp_path / "model-int8").quantized


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        "timm/test_convnext",  # multiplies maps (B, H, W, C) by matrices
        "timm/repvgg_a0",  # begins with two convolutions that see the pixels, side by side
    ],
)
def test_networks_of_other_forms_are_quantized(
    network: str, photos: list[Path], tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", make_model(network, "show_attend_tell", 64), 64)
    small = quantize(folder, tmp_path / "small", photos).folder
    fit = Preprocessing(size=64)
    pixels = np.stack([fit(Image.open(path).convert("RGB")) for path in photos])
    exact, near = (
        onnxruntime.InferenceSession(each / "encoder.onnx").run(
            ["image.values"], {"pixels": pixels}
        )
        for each in (folder, small)
    )
    assert np.linalg.norm(exact[0] - near[0]) < 0.15 * np.linalg.norm(exact[0])


def test_a_model_is_not_replaced_by_its_own_copy(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "model"))
    (tmp_path / "link").symlink_to(folder)
    before = (folder / "model.safetensors").read_bytes()
    for output in (folder, tmp_path / "link"):
        with pytest.raises(CheckpointError, match=r"is the model itself.*choose another folder"):
            quantize(folder, output, photos[:1])
    assert (folder / "model.safetensors").read_bytes() == before
    assert read_checkpoint(folder).quantized is None


def test_an_output_folder_that_is_in_use_is_refused_before_photos_are_read(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "own.txt").write_text("mine")

    def photos() -> Iterator[Path]:
        raise AssertionError("photos were read")
        yield

    for output in (tmp_path / "album", tmp_path / "album" / "own.txt"):
        with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
            quantize(checkpoint_folder, output, photos())
    assert (tmp_path / "album" / "own.txt").read_text() == "mine"


def test_a_copy_with_the_words_of_another_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "mixed"))
    words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    (folder / "vocabulary.json").write_text(json.dumps(words[:-1]), encoding="utf-8")
    said = f"log_probs of the ONNX pair is {len(words)}, but of the other files {len(words) - 1}"
    with pytest.raises(CheckpointError, match=said):
        Captioner.from_pretrained(folder)


def test_a_model_without_a_card_can_be_quantized(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    (folder / "README.md").unlink()
    quantize(folder, tmp_path / "small", photos[:1])
    assert (tmp_path / "small" / "README.md").read_text().startswith("## Quantized")


def test_a_full_disk_is_an_error_that_says_so(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.serialize_file", fail)
    with pytest.raises(CheckpointError, match=r"cannot be written .*is the disk full"):
        quantize(checkpoint_folder, tmp_path / "small", photos[:1])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_values_beyond_half_precision_are_kept(
    checkpoint_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(checkpoint_folder)
    model = TorchBackend.from_checkpoint(checkpoint).model
    with torch.no_grad():
        model.decoder.output.bias[0] = -100_000  # of <pad>, which is never generated
    folder = save_changed(tmp_path / "large", model, checkpoint)
    bundle = OnnxBackend(quantize(folder, tmp_path / "small", photos[:1]).folder)
    size = checkpoint.preprocessing.size
    encoded = bundle.encode(np.zeros((1, 3, size, size), np.float32))
    step = encoded.step(np.array([[0]]), np.array([[START]]), 1, all_log_probs=True)
    assert step.all_log_probs[0, 0, 0] == pytest.approx(-100_000, rel=0.01)


def test_models_of_clips_are_refused(photos: list[Path], tmp_path: Path) -> None:
    folder = save_clip_model(tmp_path / "clips", "mean", onnx=False)
    with pytest.raises(CheckpointError, match="captions clips; expected a model of photos"):
        quantize(folder, tmp_path / "small", photos)


def test_the_help_says_how_many_photos_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    assert f"up to {PHOTOS} of them are used" in " ".join(capsys.readouterr().out.split())
