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
# The UUID boxes of JPEG 2000 (XMP specification, part 3; those of EXIF and IPTC as ExifTool and
# exiv2 write them).
_UUIDS = {
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
    b"JpgTiffExif->JP2": "exif",
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"): "iptc",
}
_GIF_XMP, _GIF_XMP_END = b"!\xff\x0bXMP DataXMP", b"\x01\xff\xfe"
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
            others = _unknown_to_pillow(file)
            with _open(file, os.fspath(photo)) as image:
                # First: of a PNG, the rest is known only when its pixels have been read.
                with suppress(Exception):  # on damaged metadata, Pillow raises all kinds of errors
                    exif = image.getexif()
                    if "exif" in others:
                        exif.load(others["exif"])
                    description = exif.get(_EXIF_DESCRIPTION)
                xmp = image.info.get("xmp") or others.get("xmp")
                with suppress(Exception):
                    iptc = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:
        return Embedded()
    found = iptc.get(_IPTC_CAPTION) or _iptc_captions(others.get("iptc", b""))
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


def _unknown_to_pillow(file: BinaryIO) -> dict[str, bytes]:
    """Return the metadata that Pillow leaves unread, of GIF, JPEG 2000 and JPEG XL, by its kind."""
    start = file.read(8)
    file.seek(0)
    if start.startswith(b"GIF8"):
        return _in_gif(file.read())
    return _in_boxes(file) if start[4:] in (b"JXL ", b"jP  ") else {}


def _in_gif(data: bytes) -> dict[str, bytes]:
    """Return the XMP of a GIF: an extension with a trailer that UTF-8 cannot contain."""
    _, found, rest = data.partition(_GIF_XMP)
    return {"xmp": rest.partition(_GIF_XMP_END)[0]} if found else {}


def _in_boxes(file: BinaryIO) -> dict[str, bytes]:
    """Return the metadata in the boxes of JPEG XL (ISO/IEC 18181-2) and JPEG 2000 (15444-1)."""
    found: dict[str, bytes] = {}
    format = b""
    while len(start := file.read(8)) == 8:
        size, kind, length = int.from_bytes(start[:4], "big"), start[4:], 8
        format = format or kind
        if size == 1:
            size, length = int.from_bytes(file.read(8), "big"), 16
        if size and size < length:
            break
        rest = size - length if size else -1  # 0: up to the end
        if kind == b"xml " and format == b"JXL ":  # JPEG 2000 has other XML there
            found["xmp"] = file.read(rest)
        elif kind == b"uuid":
            content = file.read(rest)
            if content[:16] in _UUIDS:
                found[_UUIDS[content[:16]]] = content[16:]
        elif not size:
            break
        else:
            file.seek(rest, os.SEEK_CUR)
    return found


def _iptc_captions(data: bytes) -> list[bytes]:
    """Return the captions in IPTC's datasets (IIM): a marker, two numbers, a length, the value."""
    captions, at = [], 0
    while data[at : at + 1] == b"\x1c":
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        if tuple(data[at + 1 : at + 3]) == _IPTC_CAPTION:
            captions.append(data[at + 5 : end])
        at = end
    return captions


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
