"""The classifier of a pretrained CNN, which gives classes from its region features."""

import copy
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import CheckpointError, ConfigError
from captioner.model.cutting import cut
from captioner.model.networks import build_network
from captioner.model.pretrained import fitting, read_pretrained, read_state


class LinearHead(NamedTuple):
    """A linear classifier of an image's mean region features: logits = weight @ mean + bias."""

    weight: Tensor  # (classes, D)
    bias: Tensor  # (classes,)


def stored_head(folder: str | os.PathLike[str]) -> LinearHead:
    """The classifier that a checkpoint folder has kept.

    Args:
        folder: A checkpoint folder.

    Raises:
        CheckpointError: Its weights are missing, damaged or without a classifier.
    """
    state = read_state(Path(folder) / "model.safetensors")
    if not {"classifier.weight", "classifier.bias"} <= set(state):
        raise CheckpointError(f"{folder} has no classifier among its weights.")
    return LinearHead(state["classifier.weight"].float(), state["classifier.bias"].float())


def linear_head(name: str, weights: str, image_size: int) -> LinearHead:
    """The classifier that belongs to the region features of a pretrained CNN.

    Args:
        name: The CNN's name, as in `EncoderConfig`.
        weights: As `read_pretrained` takes them.
        image_size: S, the side of the images in pixels.

    Raises:
        CheckpointError: The weights are missing, damaged, of another network, or without a
            classifier.
        ConfigError: There are no such weights, or the network's classifier is more than a linear
            layer on pooled features, as those of VGG, MobileNetV3 and ConvNeXt are.
    """
    network = build_network(name, image_size).eval()
    network.load_state_dict(
        fitting(network, name, read_pretrained(name, weights, image_size), weights)
    )
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(pixels)
        encoder = cut(copy.deepcopy(network), name, image_size)
        pooled = encoder.run(encoder.cnn, pixels).mean((2, 3))  # (1, D)
        fits = bool(layers) and layers[-1].in_features == encoder.width
        if not fits or not torch.allclose(layers[-1](pooled), expected, rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"{name}'s classifier is more than a linear layer on pooled features; use another"
                " CNN."
            )
    bias = layers[-1].bias
    classes = layers[-1].weight.detach()
    return LinearHead(classes, torch.zeros(len(classes)) if bias is None else bias.detach())
