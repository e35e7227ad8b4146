"""Cut a classification network to the part that computes region features."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from captioner.errors import ConfigError
from captioner.model.networks import timm_name


class Cut(NamedTuple):
    """A network without its classifier; its parameters keep their names."""

    cnn: nn.Module
    run: Callable[[nn.Module, Tensor], Tensor]  # the network, pixels (B, 3, S, S) -> (B, D, G, G)
    side: int  # G, regions per side
    width: int  # D, the feature width


def cut(network: nn.Module, name: str, image_size: int) -> Cut:
    """Cut a classification network after its last spatial layer.

    Args:
        network: The network; it may be changed in place.
        name: Its name, as in `EncoderConfig`.
        image_size: S, the side of the images in pixels.

    Raises:
        ConfigError: The network has no grid of features, or the images are too small for it.
    """
    cut_one = _cut_by_graph if timm_name(name) is None else _cut_by_method
    return cut_one(network.eval(), name, image_size)


def _cut_by_graph(network: nn.Module, name: str, image_size: int) -> Cut:
    """Cut a CNN of torchvision at its last spatial layer.

    The layer is found by running every node of the traced network once: it is the last one, before
    the pooling that feeds the classifier, whose output is an image with more than one pixel.
    """
    try:
        _, nodes = get_graph_node_names(network)
        probe = create_feature_extractor(network, nodes)
        with torch.inference_mode():
            outputs = probe(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, torch.fx.proxy.TraceError) as error:
        raise ConfigError(f"{name} cannot encode images of {image_size} pixels: {error}") from error
    spatial = [
        node
        for node, output in outputs.items()
        if isinstance(output, Tensor)
        and output.ndim == 4
        and output.shape[2] > 1
        and output.shape[1] != 3
    ]
    spatial = [node for node in spatial if "avgpool" not in node]
    if not spatial or outputs[spatial[-1]].shape[2] != outputs[spatial[-1]].shape[3]:
        raise _no_grid(name, image_size)
    _, width, side, _ = outputs[spatial[-1]].shape
    return Cut(
        create_feature_extractor(network, {spatial[-1]: "features"}), _run_graph, side, width
    )


def _cut_by_method(network: nn.Module, name: str, image_size: int) -> Cut:
    """Cut a network of timm after `forward_features`; remove what that method doesn't use."""
    used: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda called, inputs: used.add(called))
        for module in network.modules()
    ]
    try:
        with torch.inference_mode():
            features = _run_method(network, torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise ConfigError(f"{name} cannot encode images of {image_size} pixels: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    _, width, side, other = features.shape
    if side < 2 or side != other:
        raise _no_grid(name, image_size)
    for part, module in list(network.named_children()):
        if used.isdisjoint(module.modules()):
            delattr(network, part)
    return Cut(network, _run_method, side, width)


def _run_graph(cnn: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = cnn(pixels)["features"]
    return features


def _run_method(network: nn.Module, pixels: Tensor) -> Tensor:
    """Compute features (B, D, G, G) from any layout: (B, D, G, G), (B, G, G, D), (B, P + L, D)."""
    features: Tensor = network.forward_features(pixels)  # type: ignore[operator]
    if features.ndim == 3:
        features = features[
            :, getattr(network, "num_prefix_tokens", 0) :
        ]  # such as a ViT's class token
        batch, regions, width = features.shape
        return features.transpose(1, 2).reshape(batch, width, math.isqrt(regions), -1)
    if features.shape[1] != network.num_features == features.shape[3]:
        return features.permute(0, 3, 1, 2)
    return features


def _no_grid(name: str, image_size: int) -> ConfigError:
    return ConfigError(
        f"{name} has no region grid for images of {image_size} pixels; use larger images."
    )
