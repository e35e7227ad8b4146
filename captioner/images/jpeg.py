"""Identify large JPEGs that can be decoded at reduced size in bounded memory."""

import os
from typing import BinaryIO

from PIL import Image

from captioner.images.pixels import MAX_PIXELS

_MOST, _MOST_AT_ONCE = 10 * MAX_PIXELS, 5 * MAX_PIXELS // 2
_MOST_PACKED = (
    256  # pixels per byte: a block of 64 takes at least two bits, one for its DC and one for its AC
)


def is_reducible(image: Image.Image) -> bool:
    """Return whether decoding a JPEG at reduced size needs bounded memory; it isn't loaded yet.

    A JPEG with a single scan is decoded line by line. One with several scans (progressive, or one
    per colour) is held in memory completely, with up to six bytes per pixel. A file that is too
    small for its number of pixels is not reducible.
    """
    pixels = image.width * image.height
    file: BinaryIO | None = getattr(image, "fp", None)
    if file is None or file.seek(0, os.SEEK_END) * _MOST_PACKED < pixels:
        return False
    at_once = "progressive" in image.info or _components_of_first_scan(file) != len(
        image.getbands()
    )
    return pixels <= (_MOST_AT_ONCE if at_once else _MOST)


def _components_of_first_scan(file: BinaryIO) -> int | None:
    """Read the first scan's header; before it come segments: marker, length, data."""
    place = 2
    while True:
        file.seek(place)
        head = file.read(5)
        if len(head) < 5 or head[0] != 0xFF:
            return None
        if head[1] == 0xDA:
            return head[4]
        place += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:4], "big")
