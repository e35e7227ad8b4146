"""Identify an image file and open it, or explain why it cannot be opened."""

import os
import threading
import warnings
from importlib import import_module
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from captioner.errors import ImageError
from captioner.images.extras import open_extra
from captioner.images.formats import COMMON, FORMATS, HEADER, RAW, TIFF, extra_of, is_avif
from captioner.images.jpeg import is_reducible
from captioner.images.pixels import MAX_PIXELS, TOO_LARGE, from_array, upright_rgb
from captioner.images.png import BITS, fit_transparent_colour, without_large_texts
from captioner.images.raw import is_raw_tiff
from captioner.images.sources import ImageSource, name_of, open_file

_PLUGIN_FORMATS = ("HEIF", "JXL")  # readable if the user has registered a plugin
_warnings_lock = (
    threading.Lock()
)  # the warning filters belong to the process: two threads must not swap them at once


def _renew_lock() -> None:
    """Give a forked process a new lock: the thread that held it may exist only in the parent."""
    global _warnings_lock
    _warnings_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def open_image(
    source: ImageSource, *, name: str | None = None, min_size: int | None = None
) -> Image.Image:
    """Read an image as upright RGB.

    Args:
        source: A path; the bytes of an image file; a PIL image, which is not modified; or an array
            (H, W) or (H, W, 1 | 3 | 4), RGB or RGBA, of uint8, bool, uint16 or floats in 0..1.
        name: The image's name for errors; by default its path or its type.
        min_size: The required length of the shorter side in pixels. A larger JPEG may then be
            decoded at 1/2, 1/4 or 1/8 of its size, which is faster; its shorter side stays at least
            twice this long. The limit on pixels applies to the decoded size.

    Returns:
        A new image in mode "RGB", in sRGB, without metadata.

    Raises:
        ImageError: The image cannot be read.
    """
    name = name if name is not None else name_of(source)
    try:
        if isinstance(source, Image.Image):
            return upright_rgb(source, name)
        if isinstance(source, np.ndarray):
            return upright_rgb(from_array(source, name), name)
        with open_file(source, name) as file:
            return upright_rgb(_open_encoded(file, name, _suffix(source), min_size), name)
    except ImageError:
        raise
    except (
        Exception
    ) as error:  # on damaged data Pillow raises anything from OSError to struct.error
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            name, f"cannot be decoded: damaged, truncated or not supported ({detail})"
        ) from error


def _suffix(source: object) -> str:
    return "" if isinstance(source, bytes) else os.path.splitext(name_of(source))[1].lower()


def _open_encoded(file: BinaryIO, name: str, suffix: str, min_size: int | None) -> Image.Image:
    """Identify an encoded image; its pixels are not decoded from `file` yet."""
    if not file.seekable():  # a pipe
        file = BytesIO(file.read())
    header = file.read(HEADER)
    file.seek(0)
    try:
        with _warnings_lock, warnings.catch_warnings():
            # Pillow warns about odd metadata and large images; a user's filter could turn that into
            # errors.
            warnings.simplefilter("ignore")
            image = _identify(file, header, name, suffix, min_size)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ImageError(name, _why_unidentified(header)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, TOO_LARGE) from error
    if min_size is not None and image.format in ("JPEG", "MPO"):
        if image.width * image.height > MAX_PIXELS and not is_reducible(image):
            raise ImageError(name, TOO_LARGE)
        image.draft("RGB", (2 * min_size, 2 * min_size))  # never goes below that size
    return image


def _identify(
    file: BinaryIO, header: bytes, name: str, suffix: str, min_size: int | None
) -> Image.Image:
    image = open_common(file, header)
    if image is not None:
        return image
    extra = extra_of(header, suffix)
    if extra is None and header.startswith(TIFF):
        extra = RAW if is_raw_tiff(file) else None  # Pillow would show its thumbnail
        file.seek(0)
    if extra is not None:
        return open_extra(extra, file, name, min_size)
    return Image.open(
        file, formats=[*FORMATS, *(plugin for plugin in _PLUGIN_FORMATS if plugin in Image.OPEN)]
    )


def open_common(file: BinaryIO, header: bytes) -> Image.Image | None:
    """Identify a photo of a common format like `Image.open`, without its limit on the size.

    `Image.open` imports the plugins of other formats first, which takes longer than decoding a
    photo.
    """
    for plugin, signature in COMMON.items():
        if header.startswith(signature):
            import_module(f"PIL.{plugin}ImagePlugin")
            factory, accepts = Image.OPEN[plugin.upper()]
            if accepts is not None and accepts(header) is not True:
                return None
            if plugin != "Png":
                return factory(file, "")
            small, profile = without_large_texts(file)
            image = factory(small, "")
            fit_transparent_colour(image, header[BITS])
            if profile is not None:
                image.info["icc_profile"] = profile
            return image
    return None


def _why_unidentified(header: bytes) -> str:
    if not header:
        return "is empty"
    if is_avif(header) and "AVIF" not in Image.OPEN:
        return "is an AVIF image, which this Pillow cannot read (pip install --upgrade pillow)"
    return f"is not an image, or damaged: expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
