"""Weights from `captioner pretrain`: a network in a `.safetensors` file with metadata."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captioner.errors import CheckpointError, ConfigError
from captioner.files import replacing
from captioner.preprocessing import Preprocessing

_KEY = "captioner"  # in the file's metadata


@dataclass(frozen=True)
class Pretrained:
    """The metadata of a file of weights.

    Attributes:
        network: The network's name, as in `EncoderConfig`.
        classes: The names of its C classes, in the order of their logits; empty for a network
            trained without labels, which is saved without its classifier.
        preprocessing: The preprocessing of the training images.
        scores: The scores reached, by name, between 0 and 1.
    """

    network: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    scores: Mapping[str, float]


def save_pretrained(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Pretrained
) -> None:
    """Write a file of weights atomically.

    Args:
        path: The file.
        state: The network's state dict.
        facts: The metadata.

    Raises:
        CheckpointError: The file cannot be written.
    """
    described = {
        "network": facts.network,
        "classes": facts.classes,
        "preprocessing": facts.preprocessing.to_dict(),
        "scores": dict(facts.scores),
    }
    metadata = {"format": "pt", _KEY: json.dumps(described)}
    try:
        with replacing(path) as temporary:
            save_file({name: t.contiguous() for name, t in state.items()}, temporary, metadata)
            temporary.chmod(0o644)  # safetensors creates files that only the owner can read
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error


def read_facts(weights: str | os.PathLike[str]) -> Pretrained | None:
    """Read the metadata of a file of weights.

    Args:
        weights: See `read_pretrained`.

    Returns:
        The metadata; None for anything but a file written by `save_pretrained`.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
        if text is None:
            return None
        said = json.loads(text)
        return Pretrained(
            said["network"],
            tuple(said["classes"]),
            Preprocessing.from_dict(said["preprocessing"]),
            said["scores"],
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, ConfigError) as error:
        raise CheckpointError(f"Encoder weights {path} cannot be read: {error}") from error
