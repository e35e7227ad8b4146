"""Thumbnails of photos as base64 JPEGs, for self-contained pages."""

import base64
import os
from io import BytesIO
from typing import NamedTuple

from captioner.images.opening import open_image


class Thumbnail(NamedTuple):
    """A small JPEG in base64."""

    data: str
    width: int
    height: int


def thumbnail(path: str | os.PathLike[str], size: tuple[int, int]) -> Thumbnail:
    """Make a thumbnail of a photo.

    Args:
        path: The photo.
        size: The largest width and height in pixels; the aspect ratio is kept.

    Raises:
        ImageError: The photo cannot be read.
    """
    image = open_image(path, min_size=min(size))
    image.thumbnail(size)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Thumbnail(base64.b64encode(buffer.getvalue()).decode("ascii"), image.width, image.height)
