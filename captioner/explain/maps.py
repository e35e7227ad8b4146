"""Maps over photos (numpy and Pillow): the encoder's view, upsampled maps, overlays."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.images import ImageSource, open_image
from captioner.inference import Captioner

Float32Array = NDArray[np.float32]

_MOST_OBLONG = 3  # a more extreme aspect ratio is squeezed for display

# Black-body colours in order of lightness, so that they work in greyscale and for colour-blind
# people.
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
    """Return the part of a photo that the encoder sees, which attention maps cover.

    Args:
        captioner: The model.
        image: A path, bytes, a PIL image or an array (see `captioner.images.open_image`).
        longest: None returns the encoder's exact input, `preprocessing.fit(image)`: S x S, squashed
            if the model squashes photos. A number returns the same part for display: in the photo's
            aspect ratio, with at most this many pixels on its longer side.

    Returns:
        An image in mode "RGB".

    Raises:
        ImageError: The image cannot be read.
    """
    preprocessing = captioner.preprocessing
    # The same `min_size` as in the captioner, else a large JPEG is decoded to slightly different
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
    """Upsample a map smoothly and scale it for display.

    Args:
        attention: (h, w); negative values count as 0.
        size: S for (S, S), or a photo's (width, height), as in PIL.

    Returns:
        (H, W), from 0 to 1, where 1 is the map's peak; all 0 if no value is above 0.
    """
    enlarged = enlarge(np.maximum(attention, 0), size)
    peak = enlarged.max()
    return enlarged / peak if peak > 0 else enlarged


def enlarge(grid: NDArray[Any], size: int | tuple[int, int]) -> Float32Array:
    """Upsample a map by cubic B-splines, which are smooth and don't overshoot.

    The map is mirrored at its edges, so its mean is preserved. An isolated peak keeps its position
    and becomes lower and rounder.

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
    """Compute the weight of each cell at each pixel's centre (pixels, cells); rows sum to 1."""
    centres = (np.arange(pixels) + 0.5) * (
        cells / pixels
    ) - 0.5  # in units of cells, whose centres are at 0, 1, 2, ...
    beyond = np.arange(-2, cells + 2)  # two mirrored cells on each side, the support of the spline
    distance = np.abs(centres[:, None] - beyond)
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    mirrored = np.where(
        beyond < 0, -1 - beyond, np.where(beyond < cells, beyond, 2 * cells - 1 - beyond)
    )
    result = np.zeros((pixels, cells), np.float32)
    for column, cell in enumerate(mirrored % cells):  # with fewer than two cells, mirror repeatedly
        result[:, cell] += weights[:, column]
    return result


def heat(photo: Image.Image, attention: Float32Array) -> Image.Image:
    """Overlay a map on a photo: dimmed and grey where the map is 0, glowing at its peak.

    Args:
        photo: An image in mode "RGB".
        attention: (H, W) of the photo's size, 0..1, from `attention_map`.

    Returns:
        A new image in mode "RGB", of the photo's size.
    """
    below = np.asarray(dimmed(photo), np.float32)  # (H, W, 3)
    opacity = opacity_of(attention)[:, :, None]
    return Image.fromarray(np.rint(below + opacity * (colours(attention) - below)).astype(np.uint8))


def dimmed(photo: Image.Image) -> Image.Image:
    """Darken and desaturate a photo, as `heat` shows it where the map is 0."""
    grey = np.asarray(photo.convert("L"), np.float32)[:, :, None]  # (H, W, 1)
    below = 0.25 * np.asarray(photo, np.float32) + 0.5 * grey
    return Image.fromarray(np.rint(below).astype(np.uint8))


def opacity_of(attention: Float32Array) -> Float32Array:
    """Compute the opacity of the map's colours over the photo, in the shape of the map."""
    return (0.75 * attention).astype(np.float32)


def colours(values: Float32Array) -> Float32Array:
    """Convert values in 0..1 to colours (..., 3) in 0..255."""
    steps = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, steps, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
