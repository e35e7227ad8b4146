"""The pretrained network: any classification network, for any number of classes."""

import logging

import torch
from torch import nn

from captioner.checkpoint import encoder_weights
from captioner.model.classifier import head_names
from captioner.model.networks import build_network
from captioner.model.pretrained import fitting, read_pretrained

logger = logging.getLogger(__name__)


def new_network(name: str, image_size: int, classes: int, weights: str | None = None) -> nn.Module:
    """Return a whole network with random or pretrained weights and a new, random classifier.

    Args:
        name: Its name, as in `EncoderConfig`.
        image_size: S, the side of the images in pixels.
        classes: C, the number of classes.
        weights: As for `read_pretrained`, or "bundled"; None for random weights.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ConfigError: The network or the weights are unknown.
    """
    network = build_network(name, image_size, classes=classes)
    if weights is not None:
        weights = encoder_weights(weights)
        own = network.state_dict()
        heads = head_names(name, image_size)
        state = read_pretrained(name, weights, image_size)
        begun = {key: state[key] for key in state if key not in heads}
        kept = {key: own[key] for key in heads}
        network.load_state_dict(fitting(network, name, begun | kept, weights))
        logger.info("Weights: %s, but for the classifier", weights)
    return network


def scores(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, C) of images (B, 3, S, S), without auxiliary classifiers."""
    output = network(pixels)
    return output if isinstance(output, torch.Tensor) else output.logits
