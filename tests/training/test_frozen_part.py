"""What doesn't train gives the same by an engine, and what trains gets the same gradients."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.networks import build_network
from captioner.training import fast_encoder
from captioner.training.frozen_part import FrozenPart
from captioner.training.train import main
from tests.training.runs import SMALL, SMALL_RESNET, TINY

SIZE = 64
SMALL_EFFICIENTNET = "timm/test_efficientnet"


@pytest.fixture(autouse=True)
def _worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_encoder, "WORTHWHILE", 1)  # as for many photos


def make(name: str, stages: list[str]) -> tuple[Encoder, FrozenPart]:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name), SIZE)
    part = FrozenPart(encoder, stages)
    part.n_images = 1
    assert encoder.frozen
    return encoder, part


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("stages", [["bn2"], ["bn1", "blocks.4"]])
def test_batchnorm_that_trains_gets_its_gradient(stages: list[str]) -> None:
    encoder, part = make(SMALL_EFFICIENTNET, stages)
    encoder.unfreeze(stages, freeze_batchnorm=False)
    encoder.train()
    part.encode(encoder, torch.randn(5, 3, SIZE, SIZE)).square().sum().backward()
    for parameter in encoder.trained_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize(
    ("name", "stages", "separate"),
    [
        (SMALL_EFFICIENTNET, ["blocks.4", "conv_head"], True),
        (SMALL_EFFICIENTNET, ["blocks.3.0"], True),
        (SMALL_EFFICIENTNET, ["all"], False),
        (SMALL_RESNET, ["layer4"], True),
        ("resnet18", ["layer4"], False),  # a flat graph
        ("timm/dla34", ["level5"], False),  # which takes more than the output of level4
    ],
)
def test_features_and_gradients_are_those_of_the_encoder(
    name: str, stages: list[str], separate: bool
) -> None:
    encoder, part = make(name, stages)
    inner = [module for module in encoder.cnn.modules() if isinstance(module, nn.Conv2d)][1]
    runs: list[int] = []
    pixels = torch.randn(5, 3, SIZE, SIZE)
    clips = torch.randn(2, 3, 3, SIZE, SIZE)
    for trains in (False, True):
        encoder.unfreeze(stages if trains else ())
        encoder.train()
        part.encode(encoder, pixels)
        assert encoder.training
        handle = inner.register_forward_hook(lambda *_: runs.append(1))
        found = part.encode(encoder, pixels), part.encode(encoder, clips)
        handle.remove()
        assert bool(runs) is (trains and not separate), "an engine runs what doesn't train"
        expected = encoder(pixels), encoder(clips)
        assert found[1].shape == expected[1].shape
        for each, other in zip(found, expected, strict=True):
            close(each, other)
    assert bool(part.stages) is separate
    target = torch.randn_like(expected[0])
    weights = [*encoder.trained_parameters()]
    gradients = [
        torch.autograd.grad((features[0] * target).sum(), weights) for features in (found, expected)
    ]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=0.01, atol=0.01 * float(other.abs().max()))


@pytest.mark.parametrize("name", [SMALL_EFFICIENTNET, "resnet18"])
def test_few_images_are_left_to_torch(name: str) -> None:
    encoder, part = make(name, [])
    part.n_images = 0
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(part.encode(encoder, pixels), encoder(pixels))


def test_a_run_learns_the_same_with_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = build_network(SMALL_RESNET, SIZE)
    save_file(whole.state_dict(), "weights.safetensors")
    found: list[bool] = []
    find = fast_encoder.onnx_encode

    def note(*args: object) -> object:
        found.append(True)
        return find(*args)

    monkeypatch.setattr(fast_encoder, "onnx_encode", note)
    options = [
        f"--config={TINY}",
        *SMALL,
        "--data.draw_shapes=24",
        "--data.cache_features=0",
        f"--model.encoder.name={SMALL_RESNET}",
        "--model.weights=weights.safetensors",
        "--model.finetune={stages: [layer4], from_epoch: 1, learning_rate: 1e-4}",
        "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
    ]
    weights = {}
    for name, least in (("torch", 10**9), ("engine", 1)):
        monkeypatch.setattr(fast_encoder, "WORTHWHILE", least)
        assert main([*options, f"--trainer.default_root_dir={name}"]) == 0
        weights[name] = load_file(Path(name) / "best" / "model.safetensors")
        assert len(found) == (0 if name == "torch" else 2), "for the whole, then for its stages"
    for tensor, other in zip(weights["engine"].values(), weights["torch"].values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=2e-3)
    moved = (
        weights["engine"]["encoder.cnn.layer4.0.conv1.weight"]
        != whole.state_dict()["layer4.0.conv1.weight"].half()
    )
    assert moved.any()
