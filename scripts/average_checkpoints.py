"""Average the weights of checkpoints: scripts/average_checkpoints.py OUTPUT DIR DIR [DIR ...].

The mean of weights along a run often generalises better than its last epoch (Izmailov et al. 2018).
It is meaningful only for checkpoints that share most of their training. OUTPUT gets the other files
of the first checkpoint; its ONNX graphs read the averaged weights, because they refer to them.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from captioner.checkpoint import WEIGHTS, read_checkpoint, weight_places
from captioner.errors import CaptionerError, CheckpointError


def average(output: Path, folders: Sequence[Path]) -> None:
    """Write a checkpoint with the mean of the weights of others.

    Args:
        output: The new folder.
        folders: Two or more checkpoints of the same architecture and vocabulary.

    Raises:
        CheckpointError: A folder is not a checkpoint, the checkpoints don't match, or `output`
            exists.
    """
    checkpoints = [read_checkpoint(folder) for folder in folders]
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for what in ("architecture", "vocabulary", "preprocessing"):
            if getattr(first, what) != getattr(other, what):
                raise CheckpointError(f"{first.folder} and {other.folder} differ in their {what}.")
    if output.exists():
        raise CheckpointError(f"{output} exists; choose another folder.")
    weights = [load_file(checkpoint.folder / WEIGHTS) for checkpoint in checkpoints]
    shutil.copytree(first.folder, output)
    with (output / WEIGHTS).open("r+b") as file:
        for name, place in weight_places(first.folder / WEIGHTS).items():
            tensor = weights[0][name]
            mean = np.mean([each[name].astype(np.float64) for each in weights], axis=0)
            file.seek(place.offset)
            file.write(mean.astype(tensor.dtype).tobytes())


def main(argv: Sequence[str] | None = None) -> int:
    """Average the checkpoints that are named; return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    output, *folders = map(Path, arguments)
    try:
        average(output, folders)
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
