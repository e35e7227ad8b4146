"""Read the header of a safetensors file: which tensors it has, and where.

The file is the length of the header (8 bytes), the header (JSON: name -> dtype, shape,
data_offsets), and the tensors' raw bytes, without a gap.
"""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from captioner.errors import CheckpointError

_MALFORMED = (struct.error, ValueError, RecursionError, LookupError, TypeError, AttributeError)
_POINTER = b"version "  # how a Git LFS pointer begins


class WeightPlace(NamedTuple):
    """A tensor's dtype ("F16", "F32", ...) and its position in a safetensors file, in bytes."""

    dtype: str
    offset: int
    length: int


def weight_places(path: Path) -> dict[str, WeightPlace]:
    """Return where each tensor of a complete file is."""
    tensors, begin = _read_header(path)
    return {
        name: WeightPlace(entry["dtype"], begin + start, end - start)
        for name, entry in tensors.items()
        for start, end in (entry["data_offsets"],)
    }


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, after checking that the file is complete.

    Raises:
        CheckpointError: The file cannot be read, is damaged, incomplete, or a Git LFS pointer.
    """
    try:
        tensors, begin = _read_header(path)
        expected = begin + max(entry["data_offsets"][1] for entry in tensors.values())
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except _MALFORMED as error:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer. Fetch the file itself: git lfs pull"
                ) from error
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file. Copy the whole folder again."
        ) from error
    if size != expected:
        raise CheckpointError(
            f"{path}: size mismatch: expected {expected:,} bytes, got {size:,}. Copy the whole"
            " folder again."
        )
    return shapes


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the entry of each tensor, and where the first one's bytes begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(min(length, path.stat().st_size)))
    tensors.pop("__metadata__", None)
    return tensors, 8 + length
