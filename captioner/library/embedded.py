"""Captions and keywords embedded in a photo file, in XMP, IPTC and EXIF."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from captioner.errors import DataError
from captioner.images.formats import HEADER, HEIC, JXL, extra_of
from captioner.library.xmp import Packet

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_EXIF_DESCRIPTION = 0x010E
_IPTC_CAPTION = (2, 120)
# Placeholders that cameras and phones write as the description of every photo.
_PLACEHOLDER = re.compile(
    r"(.*digital camera|sony dsc|.*\\dji_?\d*.*|exif_jpeg_picture|default|samsung|<?untitled>?"
    r"|cof|dav|sdr|hdr|rhdr|mde|edf|ptr|(oz|ho)nor\w*|\w{2,5}mde|image|jpeg|ascii)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Embedded:
    """The metadata embedded in a photo file.

    Attributes:
        packet: Its XMP; None if it is missing or cannot be read.
        texts: Its captions in IPTC and EXIF.
    """

    packet: Packet | None = None
    texts: tuple[str, ...] = ()

    @property
    def has_foreign_caption(self) -> bool:
        """Return whether the photo has a caption that we didn't write."""
        if self.packet is not None and self.packet.captions and not self.packet.has_own_caption:
            return True
        ours = "" if self.packet is None else self.packet.mark.caption
        return any(text != ours for text in self.texts)


def read_embedded(photo: str | os.PathLike[str]) -> Embedded:
    """Read the metadata of a photo file, without decoding more than needed.

    Placeholders that cameras write, such as "OLYMPUS DIGITAL CAMERA", don't count as captions. A
    file that cannot be read returns empty metadata; damaged EXIF or IPTC leaves the rest.
    """
    from PIL import IptcImagePlugin

    description: object = None
    iptc: dict[tuple[int, int], bytes | list[bytes]] = {}
    try:
        with open(photo, "rb") as file:
            box = _xmp_box(file)
            with _open(file, os.fspath(photo)) as image:
                # First: of a PNG, the rest is known only when its pixels have been read.
                with suppress(Exception):  # on damaged metadata, Pillow raises all kinds of errors
                    description = image.getexif().get(_EXIF_DESCRIPTION)
                xmp = image.info.get("xmp") or box
                with suppress(Exception):
                    iptc = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:
        return Embedded()
    found = iptc.get(_IPTC_CAPTION)
    texts = [
        _decoded(text) for text in (description, *(found if isinstance(found, list) else [found]))
    ]
    captions = tuple(text for text in texts if not _PLACEHOLDER.fullmatch(text))
    return Embedded(_packet(xmp), captions)


def _open(file: BinaryIO, photo: str) -> "ImageFile":
    """Open a photo like `captioner.images`, but a camera raw file as the TIFF that it is."""
    from PIL import Image

    from captioner.images.extras import open_extra
    from captioner.images.opening import open_common

    file.seek(0)
    header = file.read(HEADER)
    file.seek(0)
    image = open_common(file, header)
    if image is not None:
        return cast("ImageFile", image)
    extra = extra_of(header, os.path.splitext(photo)[1].lower())
    if extra in (HEIC, JXL):
        return cast("ImageFile", open_extra(extra, file, photo, None))
    return Image.open(file)


def _xmp_box(file: BinaryIO) -> bytes | None:
    """Return the XMP of a JPEG XL file, which is a box of its container (ISO/IEC 18181-2)."""
    if file.read(8)[4:] != b"JXL ":
        return None
    file.seek(0)
    while len(start := file.read(8)) == 8:
        size, kind, length = int.from_bytes(start[:4], "big"), start[4:], 8
        if size == 1:
            size, length = int.from_bytes(file.read(8), "big"), 16
        if kind == b"xml ":
            return file.read(size - length if size else -1)
        if size < length:  # 0: up to the end
            return None
        file.seek(size - length, os.SEEK_CUR)
    return None


def _packet(xmp: object) -> Packet | None:
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp.strip(b"\0 "):
        return None
    try:
        return Packet(xmp)
    except DataError:
        return None


def _decoded(text: object) -> str:
    """Decode text of IPTC and EXIF, neither of which defines its encoding."""
    if isinstance(text, bytes):
        try:
            return _decoded(text.decode())
        except UnicodeDecodeError:
            return _decoded(text.decode("latin-1"))
    return text.strip("\0 \t\r\n") if isinstance(text, str) else ""
