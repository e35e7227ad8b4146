"""Open any image safely: the one place where files, bytes, PIL images and arrays become upright RGB.

Brightness becomes 8 bits by fixed rules:

- boolean: black and white; 8 bits: as they are; 16 bits: 0..65535 is black..white;
- a float array must be within 0..1;
- 32-bit grayscale files and PIL images (modes "I" and "F") don't say their range: it is the first of 0..1 (floats
  only), 0..255 and 0..65535 that holds all values, and else their own minimum..maximum.

What is transparent is shown on white. Of an animation, the first frame is taken.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from captioner.errors import ImageError

logger = logging.getLogger(__name__)

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]

MAX_PIXELS = 100_000_000
"""An image with more pixels to decode is refused: a file of a few kilobytes can claim to be larger than the memory."""
_TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels: scale it down first"

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff",
    ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi",
    ".heic", ".heif",  # not readable, but a folder of such photos should get an answer, not silence
})
# fmt: on

# Photos come in these; Pillow's other formats can start programs (EPS) or take any bytes for an image (TGA).
# The first ones are loaded with Pillow, so that the rest is only imported when none of them fits.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "QOI")
_NO_IMAGE = f"is no image, or a damaged one: expected {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
_COMMON = {"Jpeg": b"\xff\xd8\xff", "Png": b"\x89PNG\r\n\x1a\n", "WebP": b"RIFF"}  # what their files begin with
_PLUGIN_FORMATS = ("HEIF", "JXL")  # readable where the user has registered a plugin for them
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

_TRANSPOSE = {  # EXIF orientation -> what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warnings_lock = threading.Lock()  # the warning filters belong to the process: two threads must not swap them at once


def open_image(source: ImageSource, *, name: str | None = None, min_size: int | None = None) -> Image.Image:
    """Read an image as upright RGB.

    Args:
        source: A path; the bytes of an image file; a PIL image, which stays as it is; or an array (H, W) or
            (H, W, 1 | 3 | 4), RGB or RGBA, of uint8, bool, uint16 or floats in 0..1.
        name: What errors call the image; by default its path, or what it is.
        min_size: The length in pixels that its shorter side needs. A larger JPEG may then be decoded at a half, a
            quarter or an eighth of its size, which is faster; its shorter side stays at least twice as long as this.

    Returns:
        A new image in mode "RGB", without metadata.

    Raises:
        ImageError: The image cannot be read, whatever the cause.
    """
    name = name if name is not None else _name_of(source)
    try:
        if isinstance(source, Image.Image):
            return _upright_rgb(source, name)
        if isinstance(source, np.ndarray):
            return _upright_rgb(_from_array(source, name), name)
        with _open_file(source, name) as file:
            return _upright_rgb(_open_encoded(file, name, min_size), name)
    except ImageError:
        raise
    except Exception as error:  # damaged data lets Pillow fail with anything, from OSError to struct.error
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, f"cannot be decoded, it is damaged, incomplete or too unusual ({detail})") from error


def find_images(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Find the images below a folder, by their suffix.

    Hidden files and folders (`._photo.jpg`) are left out, links to folders are not followed, and a folder that may not
    be read is skipped with a warning.

    Args:
        path: The folder.

    Returns:
        An iterator over paths that start with `path`, in the order of their parts; it reads one folder at a time.

    Raises:
        ImageError: There is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(str(folder), "is not a folder" if folder.exists() else "does not exist")
    return _walk(folder)


def _walk(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        logger.warning("%s: skipped, it cannot be read (%s)", folder, error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(folder / entry.name)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and (entry.is_file() or entry.is_symlink()):
            yield folder / entry.name  # a broken link too: opening it says so


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "") or "image")
    return {bytes: "image (bytes)", np.ndarray: "image (array)"}.get(type(source), "image")


def _open_file(source: object, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise ImageError(name, f"is of type {kind}: expected a path, bytes, a PIL image or a NumPy array")
    path = os.fsdecode(source)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise ImageError(name, _why_unopened(error, path)) from error


def _why_unopened(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, IsADirectoryError) or os.path.isdir(path):  # Windows denies the permission to open a folder
        return "is a folder: expected an image"
    if isinstance(error, FileNotFoundError):
        return "is a URL: download the image first" if "://" in path else "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


def _open_encoded(file: BinaryIO, name: str, min_size: int | None) -> Image.Image:
    """Identify an encoded image; its pixels are still to be decoded, from `file`."""
    formats = [*_FORMATS, *(plugin for plugin in _PLUGIN_FORMATS if plugin in Image.OPEN)]
    try:
        with _warnings_lock, warnings.catch_warnings():
            # Pillow's warnings are about odd metadata and large images, and a filter could make errors of them.
            warnings.simplefilter("ignore")
            image = _open_common(file)
            if image is None or image.width * image.height > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
                image = Image.open(file, formats=formats)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ImageError(name, _why_unidentified(file)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, _TOO_LARGE) from error
    if min_size is not None:
        image.draft("RGB", (2 * min_size, 2 * min_size))  # does something for JPEG only, and never goes below that size
    return image


def _open_common(file: BinaryIO) -> Image.Image | None:
    """Identify a photo of a common format like `Image.open`, but for its limit on the size.

    `Image.open` imports the plugins of other formats first, which takes longer than to decode a photo.
    """
    if not file.seekable():
        return None
    start = file.read(16)
    for plugin, signature in _COMMON.items():
        if start.startswith(signature):
            import_module(f"PIL.{plugin}ImagePlugin")
            factory, accepts = Image.OPEN[plugin.upper()]
            file.seek(0)
            if accepts is None or accepts(start) is True:
                return factory(file, "")
    return None


def _why_unidentified(file: BinaryIO) -> str:
    if not file.seekable():  # a pipe, whose beginning is gone
        return _NO_IMAGE
    file.seek(0)
    start = file.read(12)
    if not start:
        return "is empty"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "is a HEIC photo, which cannot be read: convert it to JPEG first"
    return _NO_IMAGE


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(name, "has no pixels")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, _TOO_LARGE)
    image.load()  # before the orientation is read: it can follow the pixels, and TIFF is turned by loading it
    rgb = _to_rgb(image, name)
    method = _TRANSPOSE.get(_orientation(image))
    if method is not None:
        rgb = rgb.transpose(method)
    rgb.info = {}  # an orientation that is left there would turn the image again
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # damaged metadata doesn't make the image unreadable
        logger.debug("unreadable EXIF data is ignored: %s", error)
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an image of any mode; the result is always a new image."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_wide_to_uint8(np.asarray(image), name)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow has no direct way from La to RGBA
    rgba = straight.convert("RGBA")
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(rgba, mask=rgba)
    return rgb


def _wide_to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale the values of a PIL image of more than 8 bits by the rules at the top of this file."""
    low, high = _finite_range(values, name)
    if values.dtype.kind == "u":
        return _scale(values, 0, 65535)
    if low >= 0:
        for top in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
            if high <= top:
                return _scale(values, 0, top)
    return _scale(values, low, high)


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ", move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(name, f"has shape {array.shape}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}")
    if array.size == 0:
        raise ImageError(name, "has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        low, high = _finite_range(array, name)
        if low < -1e-3 or high > 1 + 1e-3:  # some slack for the rounding of whoever computed them
            advice = "; divide 0..255 by 255, or convert to uint8" if low >= 0 and high <= 255 else ""
            raise ImageError(name, f"has floats in {low:.4g}..{high:.4g}: expected 0..1{advice}")
        array = _scale(np.clip(array, 0, 1), 0, 1)
    elif kind == "b" or (kind == "u" and bits == 16):
        array = _scale(array, 0, 1 if kind == "b" else 65535)
    elif not (kind == "u" and bits == 8):
        raise ImageError(name, f"has dtype {array.dtype}: expected uint8, bool, uint16 or floats in 0..1")
    return Image.fromarray(np.asarray(array))


def _finite_range(values: NDArray[Any], name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():  # NaN is carried through minimum and maximum
        raise ImageError(name, "has NaN or infinite values")
    return low, high


def _scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
    return np.rint(scaled).astype(np.uint8)
