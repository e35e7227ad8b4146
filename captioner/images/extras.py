"""Open HEIC, JPEG XL and camera raw files with optional packages."""

from importlib import import_module
from io import BytesIO
from typing import BinaryIO

from PIL import Image

from captioner.errors import ImageError
from captioner.images.formats import HEIC, JXL, Extra
from captioner.images.pixels import MAX_PIXELS, TOO_LARGE
from captioner.images.raw import develop, find_preview

_PLUGINS = {
    HEIC: ("HEIF", "pillow_heif", "HeifImageFile"),
    JXL: ("JXL", "pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}


def open_extra(extra: Extra, file: BinaryIO, name: str, min_size: int | None) -> Image.Image:
    """Open a file that Pillow alone cannot read.

    Args:
        extra: The format.
        file: The file, seekable.
        name: The image's name for errors.
        min_size: See `open_image`.

    Raises:
        ImageError: The required package is not installed, or the file is damaged or too large.
    """
    file.seek(0)
    try:
        if extra in _PLUGINS:
            if (
                extra == JXL and (_jxl_pixels(file.read(_JXL_HEADER)) or 0) > MAX_PIXELS
            ):  # pillow-jxl decodes on opening
                raise ImageError(name, TOO_LARGE)
            file.seek(0)
            format, module, opener = _PLUGINS[extra]
            if format in Image.OPEN:  # the user's own plugin
                return Image.open(file, formats=[format])
            image: Image.Image = getattr(import_module(module), opener)(file)
            return image
        return find_preview(file, min_size) or develop(file, name)
    except ImportError as error:
        what = f"is {extra.kind}, but the package that reads it is not installed"
        raise ImageError(name, f"{what} (pip install 'captioner[{extra.name}]')") from error
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception as error:
        said = error.args[0] if error.args else ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(error)  # rawpy's
        detail = " ".join(text.split()) or type(error).__name__
        raise ImageError(
            name, f"is {extra.kind}, but damaged, truncated or not supported ({detail})"
        ) from error


_JXL_HEADER = 2**16
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jxl_pixels(data: bytes) -> int | None:
    """Read the pixel count from a JPEG XL header (ISO/IEC 18181-1, SizeHeader), or None."""
    codestream = data if data.startswith(b"\xff\x0a") else _jxl_codestream(data)
    if codestream is None or len(codestream) < 12:
        return None
    bits = int.from_bytes(codestream[2:14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), 0
    ratio = take(3)
    if not ratio:
        return height * side()
    across, down = _JXL_RATIOS[ratio - 1]
    return height * (height * across // down)


def _jxl_codestream(data: bytes) -> bytes | None:
    """Find the codestream in a container of boxes: length, name, 64-bit length if length is 1."""
    stream, place = BytesIO(data), 0
    while True:
        stream.seek(place)
        head = stream.read(16)
        if len(head) < 16:
            return None
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        start = 16 if length == 1 else 8
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if name in (b"jxlc", b"jxlp"):
            return data[place + start + (4 if name == b"jxlp" else 0) :]
        if length < start:
            return None
        place += length
