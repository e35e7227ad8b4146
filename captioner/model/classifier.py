"""The classifier of a pretrained CNN, applied to its region features."""

import copy
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import CheckpointError, ConfigError
from captioner.model.cutting import cut
from captioner.model.networks import build_network
from captioner.model.own_weights import read_facts
from captioner.model.pretrained import fitting, read_pretrained, read_state


class LinearHead(NamedTuple):
    """A linear classifier of an image's mean region features: logits = weight @ mean + bias."""

    weight: Tensor  # (classes, D)
    bias: Tensor  # (classes,)


def stored_head(folder: str | os.PathLike[str]) -> LinearHead:
    """Read the classifier of a checkpoint folder.

    Args:
        folder: A checkpoint folder.

    Raises:
        CheckpointError: Its weights are missing, damaged or without a classifier.
    """
    state = read_state(Path(folder) / "model.safetensors")
    if not {"classifier.weight", "classifier.bias"} <= set(state):
        raise CheckpointError(f"The weights of {folder} have no classifier.")
    return LinearHead(state["classifier.weight"].float(), state["classifier.bias"].float())


def linear_head(name: str, weights: str, image_size: int) -> LinearHead:
    """Extract the linear classifier of a pretrained CNN.

    Args:
        name: The CNN's name, as in `EncoderConfig`.
        weights: See `read_pretrained`.
        image_size: S, the side of the images in pixels.

    Raises:
        CheckpointError: The weights are missing, damaged, of another network, or without a
            classifier.
        ConfigError: There are no such weights, they were trained without labels, or the network's
            classifier is not a single linear layer on pooled features (VGG, MobileNetV3,
            ConvNeXt).
    """
    facts = read_facts(weights)
    if facts is not None and not facts.classes:
        raise ConfigError(f"{weights} was trained without labels, so it has no classes.")
    built, classes = image_size, None
    if facts is not None:
        built, classes = facts.preprocessing.size, len(facts.classes)
    network = build_network(name, built, classes=classes).eval()
    network.load_state_dict(
        fitting(network, name, read_pretrained(name, weights, image_size), weights)
    )
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        encoder = cut(copy.deepcopy(network), name, image_size)
        expected = network(pixels)
        pooled = encoder.run(encoder.cnn, pixels).mean((2, 3))  # (1, D)
        fits = bool(layers) and layers[-1].in_features == encoder.width
        if not fits or not torch.allclose(layers[-1](pooled), expected, rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"{name}'s classifier is not a single linear layer on pooled features; use another"
                " CNN."
            )
    bias = layers[-1].bias
    weight = layers[-1].weight.detach()
    return LinearHead(weight, torch.zeros(len(weight)) if bias is None else bias.detach())


def head_names(name: str, image_size: int) -> frozenset[str]:
    """Return the names of a network's tensors whose shapes depend on the number of classes.

    Args:
        name: The network's name, as in `EncoderConfig`.
        image_size: S, the side of the images in pixels.
    """
    with torch.device("meta"):  # only shapes are needed
        two, three = (
            build_network(name, image_size, classes=classes).state_dict() for classes in (2, 3)
        )
    return frozenset(key for key in two if two[key].shape != three[key].shape)
