"""Read camera raw files: extract the embedded preview, or develop the raw data."""

import mmap
from io import BytesIO, UnsupportedOperation
from typing import Any, BinaryIO, Literal, TypeAlias

from PIL import ExifTags, Image

from captioner.errors import ImageError

_SMALLEST = 400  # pixels; a smaller preview is only a thumbnail
_BEGINNING = 2**18  # bytes that contain a JPEG's size
_MOST_CANDIDATES = 200
_MOST_PIXELS = 400_000_000  # of the sensor; the developed image has half its width and height

_SUBFILE_TYPE, _MAKE, _SUB_IFDS, _DNG_VERSION = 254, 271, 330, 50706  # tags of TIFF

_Bytes: TypeAlias = "bytes | mmap.mmap"


def is_raw_tiff(file: BinaryIO) -> bool:
    """Return whether a TIFF is a raw file: its first image is a thumbnail, or it has DNG tags.

    A TIFF begins with its byte order and the offset of the first directory: the number of entries,
    then tag, type, count and value of each (TIFF 6.0).
    """
    file.seek(0)
    start = file.read(8)
    order: Literal["little", "big"] = "little" if start.startswith(b"II") else "big"
    file.seek(int.from_bytes(start[4:8], order))
    count = int.from_bytes(file.read(2), order)
    table = file.read(12 * count)
    entries = (table[at : at + 12] for at in range(0, len(table), 12))
    tags = {
        int.from_bytes(entry[:2], order): int.from_bytes(entry[8:12], order) for entry in entries
    }
    return _DNG_VERSION in tags or (
        bool(tags.get(_SUBFILE_TYPE, 0) & 1) and _MAKE in tags and _SUB_IFDS in tags
    )


def find_preview(file: BinaryIO, min_size: int | None) -> Image.Image | None:
    """Find the embedded JPEG preview: all vendors' files have one, most at full size.

    Args:
        file: The file.
        min_size: The required length of the shorter side in pixels.

    Returns:
        The largest preview, not decoded yet; None if there is none that is large enough.
    """
    data = _contents(file)
    orientation = _orientation(data)
    for _, place in sorted(_candidates(data, max(min_size or 0, _SMALLEST)), reverse=True):
        image = _jpeg(data[place:])
        if image is None or not _is_whole(data, place):
            continue
        exif = image.getexif()
        if ExifTags.Base.Orientation not in exif and orientation is not None:
            exif[ExifTags.Base.Orientation] = orientation
        return image
    return None


def develop(file: BinaryIO, name: str) -> Image.Image:
    """Develop a raw file at half its size.

    Raises:
        ImportError: rawpy isn't installed.
        ImageError: The image is too large.
    """
    import rawpy

    file.seek(0)
    with rawpy.imread(file) as raw:
        if raw.sizes.raw_width * raw.sizes.raw_height > _MOST_PIXELS:
            raise ImageError(
                name, f"has more than {_MOST_PIXELS:,} pixels: develop it to a smaller JPEG first"
            )
        return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))


def _contents(file: BinaryIO) -> _Bytes:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (UnsupportedOperation, OSError, ValueError):
        file.seek(0)
        return file.read()


def _candidates(data: _Bytes, smallest: int) -> list[tuple[int, int]]:
    """Find the size in pixels and the offset of everything that looks like a large enough JPEG."""
    found: list[tuple[int, int]] = []
    place = data.find(b"\xff\xd8\xff")
    tried = 0
    while place >= 0 and tried < _MOST_CANDIDATES:
        image = _jpeg(data[place : place + _BEGINNING])
        if image is not None and min(image.size) >= smallest:
            found.append((image.width * image.height, place))
        tried += 1
        place = data.find(b"\xff\xd8\xff", place + 1)
    return found


def _jpeg(data: bytes) -> Image.Image | None:
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        return JpegImageFile(BytesIO(data))
    except Exception:  # raw data may be a JPEG of a kind that Pillow cannot read
        return None


def _is_whole(data: _Bytes, place: int) -> bool:
    """Return whether the JPEG can be decoded (lossless ones cannot); at 1/8 scale this is fast."""
    image: Any = _jpeg(data[place:])
    try:
        image.draft("RGB", (1, 1))
        image.load()
    except Exception:
        return False
    return True


def _orientation(data: _Bytes) -> int | None:
    """Read the EXIF orientation: TIFF-based files start with it, newer Canon ones embed a TIFF."""
    canon = data[:4096].find(b"CMT1")
    start = canon + 4 if canon >= 0 else 0
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + data[start : start + _BEGINNING])
        value = exif.get(ExifTags.Base.Orientation)
    except Exception:  # not a TIFF
        return None
    return value if isinstance(value, int) else None
