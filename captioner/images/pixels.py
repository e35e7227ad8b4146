"""Convert images of any mode and arrays of any type to upright RGB.

Values are converted to 8 bits by fixed rules:

- boolean: black and white; 8 bits: unchanged; 16 bits: 0..65535 is black..white, of a TIFF in 12
  bits 0..4095; the other way round in a TIFF that says so;
- float arrays must be within 0..1;
- 32-bit grayscale files and PIL images (modes "I" and "F") have no defined range: it is the first
  of 0..1 (floats only), 0..255 and 0..65535 that contains all values, else minimum..maximum.

Transparent pixels are blended with white. The first frame of an animation is used. Colours with a
profile are converted to sRGB.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from captioner.errors import ImageError
from captioner.images.profiles import to_srgb

logger = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
"""Images with more pixels are rejected: a small file can claim to be larger than memory."""
TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels: scale it down first"

_TRANSPOSE = {  # EXIF orientation -> the operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GRAY = ("1", "L", "LA", "La", "I", "F")


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode an image to a new upright one in mode "RGB" without metadata.

    Raises:
        ImageError: It has no pixels, too many pixels, or invalid values.
    """
    if 0 in image.size:
        raise ImageError(name, "has no pixels")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, TOO_LARGE)
    # before reading the orientation: it may be stored after the pixels, and loading a TIFF rotates
    image.load()
    rgb = _to_rgb(image, name)
    method = _TRANSPOSE.get(_orientation(image))
    if method is not None:
        rgb = rgb.transpose(method)
    rgb.info = {}  # else the orientation would be applied again
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # damaged metadata doesn't make the image unreadable
        logger.debug("ignored unreadable EXIF data: %s", error)
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an image of any mode to sRGB; the result is always a new image."""
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        if image.mode == "CMYK":
            return to_srgb(image, profile) or image.convert("RGB")
        rgb = _to_plain_rgb(image, name)
        gray = image.mode in _GRAY or image.mode.startswith("I;")
        return to_srgb(rgb.getchannel(0) if gray else rgb, profile) or rgb
    return _to_plain_rgb(image, name)


def _to_plain_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_wide_gray(image, name)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = (
        image.convert("LA") if image.mode == "La" else image
    )  # Pillow cannot convert La to RGBA directly
    rgba = straight.convert("RGBA")
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(rgba, mask=rgba)
    return rgb


def _wide_gray(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a gray image of more than 8 bits, whose values Pillow leaves as they are stored."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})  # of a TIFF
    twelve = tags.get(ExifTags.Base.BitsPerSample) == (12,)
    gray = _wide_to_uint8(values, name, 4095 if twelve else 65535)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
        gray = 255 - gray
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        gray[values == clear] = 255
    return gray


def _wide_to_uint8(values: NDArray[Any], name: str, most: int) -> NDArray[np.uint8]:
    """Scale the values of a PIL image of more than 8 bits by the rules at the top of this file."""
    low, high = _finite_range(values, name)
    if values.dtype.kind == "u":
        return _scale(values, 0, most)
    if low >= 0:
        for top in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
            if high <= top:
                return _scale(values, 0, top)
    return _scale(values, low, high)


def from_array(array: NDArray[Any], name: str) -> Image.Image:
    """Convert an array to an image, by the rules at the top of this file.

    Raises:
        ImageError: The array doesn't have the shape, type or range of an image.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ", move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            name,
            f"has shape {array.shape}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}",
        )
    if array.size == 0:
        raise ImageError(name, "has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        low, high = _finite_range(array, name)
        if low < -1e-3 or high > 1 + 1e-3:  # tolerates rounding errors
            advice = (
                "; divide 0..255 by 255, or convert to uint8" if low >= 0 and high <= 255 else ""
            )
            raise ImageError(name, f"has floats in {low:.4g}..{high:.4g}: expected 0..1{advice}")
        array = _scale(np.clip(array, 0, 1), 0, 1)
    elif kind == "b" or (kind == "u" and bits == 16):
        array = _scale(array, 0, 1 if kind == "b" else 65535)
    elif not (kind == "u" and bits == 8):
        raise ImageError(
            name, f"has dtype {array.dtype}: expected uint8, bool, uint16 or floats in 0..1"
        )
    return Image.fromarray(np.asarray(array))


def _finite_range(values: NDArray[Any], name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():  # NaN propagates through minimum and maximum
        raise ImageError(name, "has NaN or infinite values")
    return low, high


def _scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
    return np.rint(scaled).astype(np.uint8)
