"""Colour profiles -> sRGB, which is what networks are trained with."""

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
}  # Pillow's mode -> what a profile calls the space
_UNSEEN = 3  # of 255: by less than this a profile of sRGB's own making may differ


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert an image to sRGB.

    Args:
        image: In mode "RGB", "L" or "CMYK".
        profile: The ICC profile that its numbers are meant by.

    Returns:
        A new image in mode "RGB"; None where there is nothing to do: the profile is sRGB's,
        damaged, or one of another kind of image.
    """
    transform = _transform(profile, image.mode)
    return None if transform is None else transform.apply(image)


@lru_cache(
    maxsize=8
)  # a folder's photos come from a few cameras; LittleCMS's transforms may be shared by threads
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        if given.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError) as error:
        logger.debug("an unreadable colour profile is ignored: %s", error)
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: "ImageCmsTransform", mode: str) -> bool:
    """Whether all colours stay what they are, so that the whole image need not be asked."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = (
        levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    )
    cube = Image.fromarray(
        colours.reshape(len(levels), -1) if mode == "L" else colours.reshape(len(levels), -1, 3)
    )
    after = np.asarray(transform.apply(cube), dtype=int)  # (N, M, 3)
    return int(np.abs(after - np.asarray(cube.convert("RGB"), dtype=int)).max()) <= _UNSEEN
