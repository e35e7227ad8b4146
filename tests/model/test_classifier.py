"""The classifier of a pretrained CNN, beside the region features that belong to it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from captioner.errors import CheckpointError, ConfigError
from captioner.model.classifier import linear_head
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.networks import build_network
from captioner.model.pretrained import load_pretrained

SIZE = 64


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


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "timm/convnext_atto"])
def test_a_classifier_of_more_than_one_layer_is_refused(name: str, tmp_path: Path) -> None:
    _, weights = saved(name, tmp_path)
    with pytest.raises(ConfigError, match=f"{name}'s classifier is more than"):
        linear_head(name, weights, SIZE)


def test_weights_without_a_classifier_are_refused(tmp_path: Path) -> None:
    network, weights = saved("resnet18", tmp_path)
    torch.save(
        {name: value for name, value in network.state_dict().items() if "fc" not in name}, weights
    )
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors of resnet18, fc\.weight first"):
        linear_head("resnet18", weights, SIZE)
