"""The classifier of a pretrained CNN, on its region features."""

from pathlib import Path

import pytest
import torch
from torch import nn

from captioner.errors import CheckpointError, ConfigError
from captioner.model.classifier import head_names, linear_head
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.networks import build_network
from captioner.model.own_weights import Pretrained, read_facts, save_pretrained
from captioner.model.pretrained import load_pretrained
from captioner.preprocessing import Preprocessing

SIZE = 64
SMALL = Preprocessing(size=16)


def saved(name: str, folder: Path) -> tuple[nn.Module, str]:
    """A random network with BatchNorm statistics of its own, and its file."""
    torch.manual_seed(0)
    network = build_network(name, SIZE)
    network(torch.randn(4, 3, SIZE, SIZE))
    torch.save(network.state_dict(), folder / "weights.pth")
    return network.eval(), str(folder / "weights.pth")


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "timm/resnet10t"])
def test_classes_of_the_whole_network_come_from_the_encoders_features(
    name: str, tmp_path: Path
) -> None:
    network, weights = saved(name, tmp_path)
    encoder = Encoder(EncoderConfig(name), SIZE).eval()
    load_pretrained(encoder, name, weights)
    head = linear_head(name, weights, SIZE)
    assert head.weight.shape == (1000, encoder.width)
    pixels = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(
        encoder(pixels).mean(dim=1) @ head.weight.T + head.bias, network(pixels)
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet20", "timm/tf_efficientnet_lite0"])
def test_weights_of_ones_own_bring_their_own_classes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(name, SIZE, classes=3).eval()
    weights = tmp_path / "own.safetensors"
    facts = Pretrained(name, ("crack", "dent", "scratch"), Preprocessing(size=SIZE), {"x": 0.5})
    save_pretrained(weights, network.state_dict(), facts)
    assert read_facts(weights) == facts
    encoder = Encoder(EncoderConfig(name), 96).eval()  # of another size
    load_pretrained(encoder, name, str(weights))
    head = linear_head(name, str(weights), 96)
    assert head.weight.shape == (3, encoder.width)
    pixels = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(
        encoder(pixels).mean(dim=1) @ head.weight.T + head.bias,
        network(pixels),
        rtol=1e-3,
        atol=1e-3,
    )


def test_weights_of_ones_own_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    network = build_network("plain_cnn", 16, classes=3)
    save_pretrained(
        weights, network.state_dict(), Pretrained("plain_cnn", ("a", "b", "c"), SMALL, {})
    )
    encoder = Encoder(EncoderConfig("resnet20"), 16)
    with pytest.raises(CheckpointError, match="weights of plain_cnn, but the config says resnet20"):
        load_pretrained(encoder, "resnet20", str(weights))
    with pytest.raises(ConfigError, match="not a single linear layer"):
        linear_head("plain_cnn", str(weights), 16)
    with pytest.raises(ConfigError, match="plain_cnn cannot encode images of 48 pixels"):
        linear_head("plain_cnn", str(weights), 48)
    save_pretrained(weights, network.state_dict(), Pretrained("plain_cnn", (), SMALL, {}))
    with pytest.raises(ConfigError, match="without labels"):
        linear_head("plain_cnn", str(weights), 16)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_facts(weights)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_pretrained(tmp_path / "no" / "where.safetensors", {}, Pretrained("x", (), SMALL, {}))


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("resnet18", {"fc.weight", "fc.bias"}),
        ("plain_cnn", {"classifier.4.weight", "classifier.4.bias"}),
        ("timm/resnet10t", {"fc.weight", "fc.bias"}),
    ],
)
def test_the_head_is_what_depends_on_the_number_of_classes(name: str, heads: set[str]) -> None:
    assert head_names(name, 64) == heads


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "timm/convnext_atto"])
def test_a_classifier_of_more_than_one_layer_is_refused(name: str, tmp_path: Path) -> None:
    _, weights = saved(name, tmp_path)
    with pytest.raises(ConfigError, match=f"{name}'s classifier is not a single"):
        linear_head(name, weights, SIZE)


def test_weights_without_a_classifier_are_refused(tmp_path: Path) -> None:
    network, weights = saved("resnet18", tmp_path)
    torch.save(
        {name: value for name, value in network.state_dict().items() if "fc" not in name}, weights
    )
    with pytest.raises(
        CheckpointError, match=r"lacks 2 tensors of resnet18, for example fc\.weight"
    ):
        linear_head("resnet18", weights, SIZE)
