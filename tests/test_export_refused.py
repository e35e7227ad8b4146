"""What cannot be exported, or loaded into torch, is refused and leaves nothing behind."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import WEIGHTS, read_checkpoint
from captioner.errors import CheckpointError, ConfigError
from captioner.export import export_onnx


@pytest.fixture
def copied(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, without the ONNX pair."""
    return Path(
        shutil.copytree(
            checkpoint_folder, tmp_path / "copied", ignore=shutil.ignore_patterns("*.onnx")
        )
    )


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def truncate_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def overwrite_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\0" * 1000)


def change_config(folder: Path, **architecture: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part, values in architecture.items():
        config["architecture"][part] |= values
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_weights, r"incomplete: model\.safetensors missing"),
        (truncate_weights, "size mismatch"),
        (overwrite_weights, "is damaged"),
        (shutil.rmtree, "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint"),
        (
            lambda folder: change_config(folder, decoder={"name": "show_tell"}),
            "don't belong to this architecture",
        ),
        (
            lambda folder: change_config(folder, decoder={"name": "show_and_sing"}),
            "unknown architecture",
        ),
        (lambda folder: change_config(folder, decoder={"layers": 3}), "unknown architecture"),
        (lambda folder: change_config(folder, decoder={"hidden_size": 0}), "unknown architecture"),
        (
            lambda folder: change_config(folder, decoder={"hidden_size": 13}),
            "don't belong to this architecture",
        ),
        (
            lambda folder: change_config(folder, encoder={"name": "resnet19"}),
            "unknown architecture.*resnet19",
        ),
        (lambda folder: change_config(folder, encoder={"name": 5}), "encoder.name is 5"),
        (lambda folder: change_config(folder, encoder={"grid": True}), "encoder.grid is True"),
        (
            lambda folder: change_config(folder, encoder={"name": "squeezenet1_0"}),
            "don't belong to this architecture",
        ),
    ],
)
def test_a_damaged_checkpoint_is_not_exported(
    damage: Callable[[Path], object], said: str, copied: Path
) -> None:
    damage(copied)
    with pytest.raises(CheckpointError, match=said):
        export_onnx(copied)
    assert not list(copied.glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.usefixtures("_traced")
def test_a_pair_that_differs_from_torch_does_not_stay(copied: Path) -> None:
    state = load_file(copied / WEIGHTS)
    state["decoder.output.bias"][3] = math.nan  # no number equals it
    save_file(state, copied / WEIGHTS)
    with pytest.raises(CheckpointError, match="differs from torch"):
        export_onnx(copied)
    assert not list(copied.glob("*.onnx"))


def without_one(state: dict[str, Tensor]) -> None:
    del state["decoder.lstm.bias_hh"]


def with_another(state: dict[str, Tensor]) -> None:
    state["decoder.lstm.bias_xx"] = torch.zeros(2)


def with_another_shape(state: dict[str, Tensor]) -> None:
    state["decoder.lstm.bias_hh"] = state["decoder.lstm.bias_hh"][:-1].contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_one, r"lacks tensor decoder\.lstm\.bias_hh"),
        (with_another, r"unknown tensor decoder\.lstm\.bias_xx"),
        (with_another_shape, r"decoder\.lstm\.bias_hh is \(63,\), expected \(64,\)"),
    ],
)
def test_torch_loads_strictly(
    change: Callable[[dict[str, Tensor]], None], said: str, copied: Path
) -> None:
    state = load_file(copied / WEIGHTS)
    change(state)
    save_file(state, copied / WEIGHTS)
    with pytest.raises(CheckpointError, match=said):
        TorchBackend.from_checkpoint(read_checkpoint(copied))


def test_weights_of_other_kinds_are_not_exported(copied: Path) -> None:
    state = load_file(copied / WEIGHTS)
    state["decoder.gate.bias"] = state["decoder.gate.bias"].bfloat16()
    save_file(state, copied / WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"has decoder\.gate\.bias as BF16; expected F16 or F32"
    ):
        export_onnx(copied)
    assert not list(copied.glob("*.onnx*"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "tpu:0", ""])
def test_a_device_that_is_not_there_is_refused(device: str, checkpoint_folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{device}' cannot be used"):
        TorchBackend.from_checkpoint(read_checkpoint(checkpoint_folder), device)
