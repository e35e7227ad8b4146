"""Image formats: names, magic bytes, file suffixes."""

from dataclasses import dataclass

# The formats of photos. Pillow's other formats can start programs (EPS) or accept any bytes as an
# image (TGA). The first formats are tried first, as the others' plugins have to be imported.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "QOI")
COMMON = {"Jpeg": b"\xff\xd8\xff", "Png": b"\x89PNG\r\n\x1a\n", "WebP": b"RIFF"}

HEADER = 64
"""Number of bytes at the beginning of a file that identify its format."""

# fmt: off
RAW_SUFFIXES = frozenset({
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".rw2", ".rwl",
    ".orf", ".ori", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".mrw", ".mef",
    ".mos", ".iiq", ".gpr",
})
IMAGE_SUFFIXES = RAW_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi",
    ".avif", ".avifs",
    # Readable only with an extra, but included so that users get a message about it.
    ".heic", ".heif", ".hif", ".heics", ".heifs", ".jxl",
}
# fmt: on


@dataclass(frozen=True)
class Extra:
    """A format that requires an extra of this package.

    Attributes:
        kind: Its name with an article, for messages: "a HEIC photo".
        name: The extra that reads it: "heic".
    """

    kind: str
    name: str


HEIC = Extra("a HEIC photo", "heic")
JXL = Extra("a JPEG XL image", "jxl")
RAW = Extra("a camera raw photo", "raw")

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}  # of HEIC and AVIF
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW = (  # of vendors whose files are not TIFF
    b"FUJIFILMCCD-RAW",
    b"FOVb",
    b"\0MRM",
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"IIU\0",
    b"II\x1a\0\0\0HEAPCCDR",
)


def extra_of(header: bytes, suffix: str) -> Extra | None:
    """Return the extra that a file requires; None if Pillow reads it.

    Args:
        header: The first `HEADER` bytes of the file.
        suffix: The file's suffix in lower case, as most vendors' raw files are TIFF inside.
    """
    if header.startswith(_JXL):
        return JXL
    if header.startswith(_RAW) or (
        header.startswith(TIFF) and (suffix in RAW_SUFFIXES or header[8:10] == b"CR")
    ):
        return RAW
    if header[4:8] == b"ftyp":
        return _extra_of_brands(header)
    return None


def is_avif(header: bytes) -> bool:
    """Return whether a file with these first `HEADER` bytes is an AVIF image."""
    return header[4:8] == b"ftyp" and bool(_AVIF_BRANDS & set(_brands(header)))


def _extra_of_brands(header: bytes) -> Extra | None:
    """Identify HEIC and Canon's raw files by the brands in their first box."""
    major, *others = _brands(header)
    if major == b"crx ":
        return RAW
    for brands, extra in ((_HEIC_BRANDS, HEIC), (_AVIF_BRANDS, None)):
        if major in brands:
            return extra
    brands = {major, *others}
    if brands & _HEIC_BRANDS:
        return HEIC
    return HEIC if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS else None


def _brands(header: bytes) -> list[bytes]:
    end = min(int.from_bytes(header[:4], "big"), len(header))
    return [header[8:12], *(header[at : at + 4] for at in range(16, end, 4))]
