"""Weights of one's own: a network in a `.safetensors` file that says what it was trained on."""

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

_KEY = "captioner"  # of the file's metadata


@dataclass(frozen=True)
class Pretrained:
    """What a file of weights says of itself.

    Attributes:
        network: The network's name, as in `EncoderConfig`.
        classes: The names of its C classes, in the order of their scores; none where it was trained
            without labels, and its classifier is left out.
        preprocessing: How the images became its input.
        scores: What it reached, by name, between 0 and 1.
    """

    network: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    scores: Mapping[str, float]


def save_pretrained(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Pretrained
) -> None:
    """Write a file of weights, whole or not at all.

    Args:
        path: Where.
        state: The network's state dict.
        facts: What the file is to say of itself.

    Raises:
        CheckpointError: It cannot be written.
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
            temporary.chmod(0o644)  # its writer makes files that only their owner may read
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error


def read_facts(weights: str | os.PathLike[str]) -> Pretrained | None:
    """Read what a file of weights says of itself.

    Args:
        weights: What `read_pretrained` takes.

    Returns:
        The facts; None for anything but a file that `save_pretrained` wrote.

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
