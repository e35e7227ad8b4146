"""Convert colour profiles to sRGB, which networks are trained with."""

import logging
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

logger = logging.getLogger(__name__)

_SPACES = {
    "RGB": "RGB",
    "L": "GRAY",
    "CMYK": "CMYK",
}  # Pillow's mode -> the colour space's name in a profile
_UNSEEN = 3  # of 255; sRGB profiles by different vendors differ by less than this


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert an image to sRGB.

    Args:
        image: In mode "RGB", "L" or "CMYK".
        profile: The image's ICC profile.

    Returns:
        A new image in mode "RGB"; None if no conversion is needed or possible: the profile is sRGB,
        damaged, or for another kind of image.
    """
    transform = _transform(profile, image.mode)
    return None if transform is None else transform.apply(image)


@lru_cache(
    maxsize=8
)  # photos of a folder have few different profiles; LittleCMS's transforms are thread-safe
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        if given.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError) as error:
        logger.debug("ignored an unreadable colour profile: %s", error)
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: "ImageCmsTransform", mode: str) -> bool:
    """Return whether a transform leaves all colours unchanged, so that it can be skipped."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = (
        levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    )
    cube = Image.fromarray(
        colours.reshape(len(levels), -1) if mode == "L" else colours.reshape(len(levels), -1, 3)
    )
    after = np.asarray(transform.apply(cube), dtype=int)  # (N, M, 3)
    return int(np.abs(after - np.asarray(cube.convert("RGB"), dtype=int)).max()) <= _UNSEEN
