"""Maps over photos (numpy and Pillow): the encoder's view, an enlarged map, an overlay."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.images import ImageSource, open_image
from captioner.inference import Captioner

Float32Array = NDArray[np.float32]

_MOST_OBLONG = 3  # a longer strip is shown squeezed, or its other side would vanish

# Black-body colours in the order of their lightness, so that they are told apart in grey and by the
# colour-blind.
_COLOURS = np.array(
    [
        (20, 11, 52),
        (87, 16, 110),
        (150, 38, 103),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    np.float32,
)


def photo_seen(
    captioner: Captioner, image: ImageSource, *, longest: int | None = None
) -> Image.Image:
    """Give the part of a photo that the encoder sees, over which attention maps lie.

    Args:
        captioner: The model.
        image: A path, bytes, a PIL image or an array (see `captioner.images.open_image`).
        longest: None gives the encoder's very input, `preprocessing.fit(image)`: S x S, squashed if
            the model squashes photos. A number gives the same part to show to people: in the
            photo's own proportions, its longer side so many pixels at most.

    Returns:
        An image in mode "RGB".

    Raises:
        ImageError: The image cannot be read.
    """
    preprocessing = captioner.preprocessing
    # The same `min_size` as the captioner's, or a large JPEG would be decoded to slightly other
    # pixels.
    photo = open_image(image, min_size=preprocessing.size)
    if longest is None:
        return preprocessing.fit(photo)
    if preprocessing.resize == "center_crop":
        return replace(preprocessing, size=max(1, min(longest, *photo.size))).fit(photo)
    least = max(photo.size) / _MOST_OBLONG
    scale = min(1.0, longest / max(photo.size))
    width, height = (round(scale * max(side, least)) or 1 for side in photo.size)
    return (
        photo
        if photo.size == (width, height)
        else photo.resize((width, height), Image.Resampling.LANCZOS)
    )


def attention_map(attention: NDArray[Any], size: int | tuple[int, int]) -> Float32Array:
    """Enlarge a map smoothly and scale it for the eye.

    Args:
        attention: (h, w), not below 0 where it means something: less than 0 counts as 0.
        size: S for (S, S), or a photo's (width, height), as PIL gives it.

    Returns:
        (H, W), from 0 to 1, where 1 is the map's peak; all 0 if nothing in it is above 0.
    """
    enlarged = enlarge(np.maximum(attention, 0), size)
    peak = enlarged.max()
    return enlarged / peak if peak > 0 else enlarged


def enlarge(grid: NDArray[Any], size: int | tuple[int, int]) -> Float32Array:
    """Enlarge a map by cubic B-splines, whose surface has neither edges nor overshoots.

    The map is mirrored at its edges, so its mean stays what it is; a lone peak stays where it is,
    lower and rounder.

    Args:
        grid: (h, w), or (..., h, w) for several at once.
        size: S for (S, S), or (width, height).

    Returns:
        (..., H, W), in the grid's units.
    """
    width, height = (size, size) if isinstance(size, int) else size
    rows, columns = _spline(grid.shape[-2], height), _spline(grid.shape[-1], width)
    return (rows @ grid.astype(np.float32) @ columns.T).astype(np.float32)


def _spline(cells: int, pixels: int) -> Float32Array:
    """(pixels, cells): how much each cell counts at each pixel's centre; every row sums to 1."""
    centres = (np.arange(pixels) + 0.5) * (
        cells / pixels
    ) - 0.5  # in cells, whose own centres are 0, 1, 2, ...
    beyond = np.arange(
        -2, cells + 2
    )  # two mirrored cells on each side, as far as the spline reaches
    distance = np.abs(centres[:, None] - beyond)
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    mirrored = np.where(
        beyond < 0, -1 - beyond, np.where(beyond < cells, beyond, 2 * cells - 1 - beyond)
    )
    result = np.zeros((pixels, cells), np.float32)
    for column, cell in enumerate(
        mirrored % cells
    ):  # of fewer than two cells, a mirror image is mirrored again
        result[:, cell] += weights[:, column]
    return result


def heat(photo: Image.Image, attention: Float32Array) -> Image.Image:
    """Lay a map over a photo: grey and dim where the map is 0, glowing at its peak.

    Args:
        photo: In mode "RGB".
        attention: (H, W) of the photo's size, 0..1, as `attention_map` gives it.

    Returns:
        A new image in mode "RGB", of the photo's size.
    """
    below = np.asarray(dimmed(photo), np.float32)  # (H, W, 3)
    opacity = opacity_of(attention)[:, :, None]
    return Image.fromarray(np.rint(below + opacity * (colours(attention) - below)).astype(np.uint8))


def dimmed(photo: Image.Image) -> Image.Image:
    """What `heat` shows of a photo where the map is 0: a darker one with little colour left."""
    grey = np.asarray(photo.convert("L"), np.float32)[:, :, None]  # (H, W, 1)
    below = 0.25 * np.asarray(photo, np.float32) + 0.5 * grey
    return Image.fromarray(np.rint(below).astype(np.uint8))


def opacity_of(attention: Float32Array) -> Float32Array:
    """How much of the photo the map's colour hides, in the shape of the map."""
    return (0.75 * attention).astype(np.float32)


def colours(values: Float32Array) -> Float32Array:
    """Colours (..., 3) in 0..255 of values in 0..1."""
    steps = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, steps, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
