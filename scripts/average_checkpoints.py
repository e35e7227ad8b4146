"""Average checkpoints: scripts/average_checkpoints.py [--alpha A] OUTPUT DIR DIR [DIR ...].

The mean of weights along a run often generalises better than its last epoch (Izmailov et al. 2018).
With --alpha, of two checkpoints, a fine-tuned one and the one that it began with, in this order:
OUTPUT gets A times the first plus 1 - A times the second, which keeps much of what the second knew
(WiSE-FT, Wortsman et al. 2022). It is meaningful only for checkpoints that share most of their
training. OUTPUT gets the other files of the first checkpoint; its ONNX graphs read the averaged
weights, because they refer to them. It has no confidence: that is calibrated on the captions of one
model (`captioner calibrate`).
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from captioner.checkpoint import (
    WEIGHTS,
    Checkpoint,
    drop_confidence,
    read_checkpoint,
)
from captioner.errors import CaptionerError, CheckpointError, ConfigError
from captioner.model.efficientnet_lite import NETWORKS, current_names, is_lite
from captioner.weights import weight_places

Value = TypeVar("Value")


def average(output: Path, folders: Sequence[Path | None], alpha: float | None = None) -> None:
    """Write a checkpoint with the mean of the weights of others.

    Args:
        output: The new folder.
        folders: Two or more checkpoints of the same architecture; None is the bundled one. The
            vocabulary of each is that of the first, or the beginning of it: words that a checkpoint
            lacks have the first's weights.
        alpha: Of two checkpoints, the weight of the first; 1 - alpha is the second's. None weighs
            all alike.

    Raises:
        CheckpointError: A folder is not a checkpoint, the checkpoints don't match, or `output`
            exists. Then nothing is written.
        ConfigError: `alpha` is no share, or there are more than two checkpoints.
    """
    if alpha is not None and (len(folders) != 2 or not 0 <= alpha <= 1):
        raise ConfigError(
            f"alpha is {alpha}, with {len(folders)} checkpoints; expected a share from 0 to 1, and"
            " two: the fine-tuned one and the one that it began with."
        )
    shares = [1 / len(folders)] * len(folders) if alpha is None else [alpha, 1 - alpha]
    first, *others = [read_checkpoint(folder) for folder in folders]
    for other in others:
        _check(first, other)
    if output.exists():
        raise CheckpointError(f"{output} exists; choose another folder.")
    weights = [_weights(checkpoint) for checkpoint in (first, *others)]
    temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(first.folder, temporary)
        drop_confidence(temporary)
        _write_mean(temporary, first, weights, shares)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_mean(
    folder: Path,
    first: Checkpoint,
    weights: Sequence[Mapping[str, NDArray[np.floating]]],
    shares: Sequence[float],
) -> None:
    """Replace the weights in a copy of the first checkpoint."""
    with (folder / WEIGHTS).open("r+b") as file:
        for name, place in _current_names(first, weight_places(first.weights)).items():
            tensor = weights[0][name]
            mean = sum(
                share * _with_rows(each[name], tensor).astype(np.float64)
                for share, each in zip(shares, weights, strict=True)
            )
            file.seek(place.offset)
            file.write(np.asarray(mean).astype(tensor.dtype).tobytes())


def _check(first: Checkpoint, other: Checkpoint) -> None:
    """Check that the weights of two checkpoints mean the same."""
    for checkpoint in (first, other):
        if checkpoint.quantized:
            raise CheckpointError(
                f"{checkpoint.folder} is quantized; average the checkpoints that it was made from."
            )
    words = other.vocabulary.words
    same = {
        "architecture": _architecture(first) == _architecture(other),
        "vocabulary": first.vocabulary.words[: len(words)] == words,
        "preprocessing": first.preprocessing == other.preprocessing,
        "tags": _classes(first) == _classes(other),
        "events": _labels(first) == _labels(other),
    }
    for what, is_same in same.items():
        if not is_same:
            raise CheckpointError(f"{first.folder} and {other.folder} differ in their {what}.")


def _architecture(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the architecture by its current name, without the dropout, which has no weights."""
    encoder, decoder = (checkpoint.architecture[part] for part in ("encoder", "decoder"))
    name = NETWORKS.get(encoder["name"], encoder["name"])
    changed = {"encoder": encoder | {"name": name}, "decoder": decoder | {"dropout": None}}
    return checkpoint.architecture | changed


def _classes(checkpoint: Checkpoint) -> object:
    """Return the table of the classifier's classes; None without a classifier."""
    return None if checkpoint.tags is None else checkpoint.tags.table


def _labels(checkpoint: Checkpoint) -> object:
    return None if checkpoint.events is None else checkpoint.events.labels


def _weights(checkpoint: Checkpoint) -> dict[str, NDArray[np.floating]]:
    return _current_names(checkpoint, load_file(checkpoint.weights))


def _current_names(checkpoint: Checkpoint, state: Mapping[str, Value]) -> dict[str, Value]:
    lite = is_lite(checkpoint.architecture["encoder"]["name"])
    return current_names(state, "encoder.cnn.") if lite else dict(state)


def _with_rows(tensor: NDArray[np.floating], first: NDArray[np.floating]) -> NDArray[np.floating]:
    """Add the first checkpoint's rows for words that a checkpoint lacks."""
    return np.concatenate([tensor, first[len(tensor) :]]) if tensor.ndim else tensor


def main(argv: Sequence[str] | None = None) -> int:
    """Average the checkpoints that are named; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR")
    parser.add_argument("--alpha", type=float, metavar="A", help="the weight of the first of two")
    options = parser.parse_args(argv)
    if len(options.folders) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    folders = [None if str(folder) == "bundled" else folder for folder in options.folders]
    try:
        average(options.output, folders, options.alpha)
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
