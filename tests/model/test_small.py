"""The two small networks: published sizes, and their regions."""

import pytest
import torch

from captioner.errors import ConfigError
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.small import PlainCNN, ResNet20


def test_the_plain_cnn_has_two_convolutions_and_two_linear_layers() -> None:
    network = PlainCNN(28, 10)
    kinds = [type(module).__name__ for module in network.modules()]
    assert (kinds.count("Conv2d"), kinds.count("Linear")) == (2, 2)
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    with pytest.raises(ConfigError, match="at least 4 pixels, not 3"):
        PlainCNN(3, 10)


def test_resnet20_has_the_weights_that_its_authors_count() -> None:
    network = ResNet20(32, 10)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert round(weights / 1e6, 2) == 0.27, "He et al. 2016, table 6"
    layers = [
        module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and "shortcut" not in name
    ]
    assert len(layers) == 20


@pytest.mark.parametrize(("name", "width"), [("plain_cnn", 48), ("resnet20", 64)])
def test_their_regions_are_their_last_map(name: str, width: int) -> None:
    encoder = Encoder(EncoderConfig(name), 48).eval()
    assert (encoder.grid, encoder.width) == (12, width)
    with torch.inference_mode():
        assert encoder(torch.randn(2, 3, 48, 48)).shape == (2, 144, width)
