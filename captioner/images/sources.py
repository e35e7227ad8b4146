"""Paths and bytes -> an open file."""

import os
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from captioner.errors import ImageError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]


def name_of(source: object) -> str:
    """What errors call a source that its user gave no name."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "") or "image")
    return {bytes: "image (bytes)", np.ndarray: "image (array)"}.get(type(source), "image")


def open_file(source: object, name: str) -> BinaryIO:
    """Open what is neither a PIL image nor an array.

    Raises:
        ImageError: It cannot be opened, or is no source of images.
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
    ):  # Windows denies the permission to open a folder
        return "is a folder: expected an image"
    if isinstance(error, FileNotFoundError):
        return "is a URL: download the image first" if "://" in path else "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
