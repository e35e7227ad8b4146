"""A frozen encoder by ONNX Runtime or OpenVINO gives torch's features."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captioner.annotations.records import Record
from captioner.backends.openvino import has_bfloat16
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.training import fast_encoder
from captioner.training.distillation import JointEncoder
from captioner.training.fast_encoder import TOLERANCE, fastest_encode, onnx_encode
from captioner.training.feature_cache import cached_features
from tests.training.runs import SMALL_RESNET
from tests.training.views import COUNT, load, views_of


@pytest.fixture(scope="module")
def residual() -> Encoder:
    """One with BatchNorm and residuals."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig(SMALL_RESNET), 64).eval()


def same(found: np.ndarray, expected: Tensor, dtype: type = np.float16) -> None:
    """Equal but for float32's rounding and that to half floats, 0.0005 of each value."""
    assert found.dtype == dtype
    largest = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), rtol=6e-4, atol=TOLERANCE * largest)


@pytest.mark.parametrize("joint", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_features_are_those_of_torch(residual: Encoder, joint: bool) -> None:
    encoder: nn.Module = residual
    if joint:
        encoder = JointEncoder([residual, Encoder(EncoderConfig(SMALL_RESNET), 64)]).eval()
    encode = onnx_encode(encoder, 64)
    for shape in ((1,), (7,), (2, 3)):  # images, and two clips of three frames
        pixels = torch.randn(*shape, 3, 64, 64)
        with torch.inference_mode():
            same(encode(pixels), encoder(pixels.flatten(0, -4)), np.float32)


def test_openvino_encodes_in_bfloat16_as_well_as_torch(residual: Encoder) -> None:
    pytest.importorskip("openvino")
    if not has_bfloat16():
        pytest.skip("this processor doesn't compute bfloat16")
    pixels = torch.randn(7, 3, 64, 64)
    with torch.inference_mode():
        exact = residual(pixels).numpy()
    with torch.autocast("cpu", torch.bfloat16):
        encode = fastest_encode(residual, 64, 10_000)
        found = encode(pixels)
        with torch.inference_mode():
            by_torch = residual(pixels).float().numpy()
    assert found.dtype == np.float16
    errors = [np.linalg.norm(features - exact) for features in (found.astype(np.float32), by_torch)]
    assert 0 < errors[0] < 2 * errors[1] < 0.1 * np.linalg.norm(exact)
    assert np.abs(found - by_torch).max() > 0, "it would be torch"


def test_torch_encodes_what_is_not_worth_an_export_or_cannot_be_exported(
    monkeypatch: pytest.MonkeyPatch, residual: Encoder
) -> None:
    exports: list[int] = []

    def fail(*args: object) -> None:
        exports.append(1)
        raise RuntimeError("no such operator")

    monkeypatch.setattr(fast_encoder, "trace", fail)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = residual(pixels)
    same(fastest_encode(residual, 64, 10)(pixels), expected)
    assert not exports
    with torch.autocast("cpu", torch.float16):
        fastest_encode(residual, 64, 10_000)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with torch.autocast("cpu", torch.bfloat16):
        fastest_encode(residual, 64, 10_000)
    assert not exports
    same(fastest_encode(residual, 64, 10_000)(pixels), expected)
    assert exports


def test_the_cache_takes_the_features_of_either_engine(
    monkeypatch: pytest.MonkeyPatch,
    encoder: Encoder,
    records: list[Record],
    calls: list[int],
    tmp_path: Path,
) -> None:
    by_torch = cached_features(tmp_path / "torch", encoder, views_of(records), load)
    monkeypatch.setattr(fast_encoder, "WORTHWHILE", 1)
    by_onnx = cached_features(tmp_path / "onnx", encoder.train(), views_of(records), load)
    assert encoder.training
    for index in range(COUNT):
        same(by_onnx[0, index], torch.from_numpy(by_torch[0, index]).float())
    before = sum(calls)
    cached_features(tmp_path / "torch", encoder, views_of(records), load)
    assert sum(calls) == before
