"""Read PNGs with more text than Pillow accepts, or with a transparent colour in other bits.

Pillow rejects a PNG with a text or a profile of more than a megabyte when decompressed, as a few
bytes can expand to gigabytes. The image itself is fine, so it is read without them.

Pillow converts pixels of 2, 4 and 3 x 16 bits to 8 bits per channel, but not the transparent
colour, which then is another one or none.
"""

import zlib
from io import BytesIO
from typing import BinaryIO

from PIL import Image

BITS = 24
"""Where a PNG says its bits per channel."""

_SIGNATURE = 8
_MOST = 2**20  # bytes of one text; Pillow's limit
_MOST_TOGETHER = 64 * _MOST
_MOST_PROFILE = 16 * _MOST  # printer profiles have several megabytes


def without_large_texts(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """Remove chunks from a PNG that Pillow would reject.

    Args:
        file: The file, at any position.

    Returns:
        The file itself if no chunk is too large, else a copy in memory without them. And the colour
        profile if it is too large for Pillow but plausible.
    """
    dropped, profile = _large_chunks(file)
    file.seek(0)
    if not dropped:
        return file, profile
    kept, end = BytesIO(), 0
    for start, after in dropped:
        kept.write(file.read(start - end))
        file.seek(after)
        end = after
    kept.write(file.read())
    kept.seek(0)
    return kept, profile


def fit_transparent_colour(image: Image.Image, bits: int) -> None:
    """Convert the transparent colour of a PNG to 8 bits per channel, like its pixels.

    Args:
        image: The image as Pillow opened it.
        bits: The bits per channel in the file.
    """
    colour = image.info.get("transparency")
    if image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _large_chunks(file: BinaryIO) -> tuple[list[tuple[int, int]], bytes | None]:
    """Return start and end of oversized chunks; a chunk is length, name, data, checksum."""
    dropped: list[tuple[int, int]] = []
    profile: bytes | None = None
    place, together = _SIGNATURE, 0
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return dropped, profile
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        after = place + length + 12
        if name in _PACKED or name == b"tEXt":
            data = file.read(length)
            packed = _PACKED[name](data) if name in _PACKED else None
            size = len(data) if packed is None else len(_unpack(packed, _MOST))
            large = packed is not None and size > _MOST
            if name == b"iCCP" and packed is not None and large:
                unpacked = _unpack(packed, _MOST_PROFILE)
                profile = unpacked if len(unpacked) <= _MOST_PROFILE else None
            elif name != b"iCCP" and not large:
                large = together + size > _MOST_TOGETHER
                together += 0 if large else size
            if large:
                dropped.append((place, after))
        place = after


def _unpack(packed: bytes, most: int) -> bytes:
    """Decompress up to one byte more than the limit."""
    try:
        return zlib.decompressobj().decompress(packed, most + 1)
    except zlib.error:  # ignored by Pillow too
        return b""


def _after_keyword(data: bytes) -> bytes | None:
    return data.partition(b"\0")[2][1:]


def _after_keywords(data: bytes) -> bytes | None:
    """Return a compressed iTXt's text: keyword, 0, flag, method, language, 0, keyword, 0, text."""
    rest = data.partition(b"\0")[2]
    if rest[:1] != b"\1":
        return None
    return rest[2:].partition(b"\0")[2].partition(b"\0")[2]


_PACKED = {b"zTXt": _after_keyword, b"iCCP": _after_keyword, b"iTXt": _after_keywords}
