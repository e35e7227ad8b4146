"""What a photo file itself says: captions and keywords in its XMP, IPTC and EXIF."""

import os
import re
from dataclasses import dataclass

from captioner.errors import DataError
from captioner.library.xmp import Packet

_EXIF_DESCRIPTION = 0x010E
_IPTC_CAPTION = (2, 120)
# What cameras and phones write as a description of every photo.
_PLACEHOLDER = re.compile(
    r"(.*digital camera|sony dsc|.*\\dji_?\d*.*|exif_jpeg_picture|default|samsung|<?untitled>?"
    r"|cof|dav|sdr|hdr|rhdr|mde|edf|ptr|(oz|ho)nor\w*|\w{2,5}mde|image|jpeg|ascii)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Embedded:
    """What a photo file says of itself.

    Attributes:
        packet: Its XMP; None if it has none, or none that can be read.
        texts: Its captions in IPTC and EXIF.
    """

    packet: Packet | None = None
    texts: tuple[str, ...] = ()

    @property
    def has_foreign_caption(self) -> bool:
        """Whether it has a caption that we didn't write."""
        if self.packet is not None and self.packet.captions and not self.packet.has_own_caption:
            return True
        ours = "" if self.packet is None else self.packet.mark.caption
        return any(text != ours for text in self.texts)


def read_embedded(photo: str | os.PathLike[str]) -> Embedded:
    """Read what a photo file says of itself, without decoding more than needed.

    Placeholders that cameras write, such as "OLYMPUS DIGITAL CAMERA", are no captions. A file that
    Pillow cannot read says nothing here.
    """
    from PIL import Image, IptcImagePlugin

    try:
        with Image.open(photo) as image:
            # First: of a PNG, the rest is known only when its pixels have been read.
            description = image.getexif().get(_EXIF_DESCRIPTION)
            xmp = image.info.get("xmp")
            iptc = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:  # damaged metadata lets Pillow fail with anything
        return Embedded()
    found = iptc.get(_IPTC_CAPTION)
    texts = [
        _decoded(text) for text in (description, *(found if isinstance(found, list) else [found]))
    ]
    captions = tuple(text for text in texts if not _PLACEHOLDER.fullmatch(text))
    return Embedded(_packet(xmp), captions)


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
    """Text of IPTC and EXIF; both leave the encoding open."""
    if isinstance(text, bytes):
        try:
            return _decoded(text.decode())
        except UnicodeDecodeError:
            return _decoded(text.decode("latin-1"))
    return text.strip("\0 \t\r\n") if isinstance(text, str) else ""
