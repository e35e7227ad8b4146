"""Open paths and bytes as files."""

import os
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from captioner.errors import ImageError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]


def name_of(source: object) -> str:
    """Return the name for errors of a source without a given name."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "") or "image")
    return {bytes: "image (bytes)", np.ndarray: "image (array)"}.get(type(source), "image")


def open_file(source: object, name: str) -> BinaryIO:
    """Open a path or bytes as a file.

    Raises:
        ImageError: The file cannot be opened, or the source has a wrong type.
    """
    if isinstance(source, bytes):
        return BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise ImageError(
            name, f"is of type {kind}: expected a path, bytes, a PIL image or a NumPy array"
        )
    path = os.fsdecode(source)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise ImageError(name, _why_unopened(error, path)) from error


def _why_unopened(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, IsADirectoryError) or os.path.isdir(
        path
    ):  # Windows raises PermissionError for a folder
        return "is a folder: expected an image"
    if isinstance(error, FileNotFoundError):
        return "is a URL: download the image first" if "://" in path else "does not exist"
    if isinstance(error, PermissionError):
        return "cannot be read (permission denied)"
    return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
