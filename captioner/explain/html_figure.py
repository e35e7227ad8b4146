"""An explanation as a self-contained HTML page: hover over or select a word to see its map."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from captioner.explain.explanation import Explanation
from captioner.explain.maps import Float32Array, colours, dimmed, opacity_of
from captioner.templates import data_uri, render

_FINE = 128  # pixels, the longer side of a map; the browser smooths it


class _Word(NamedTuple):
    """A word of the caption, and its map as a data URI."""

    text: str
    probability: float
    glow: str


def to_html(explanation: Explanation) -> str:
    """Render the page.

    It is self-contained, with the photo and the maps as data URIs, and has no script. The words are
    radio buttons, so it works with pointer, touch and keyboard.

    Returns:
        The HTML, to be saved as UTF-8.
    """
    photo = explanation.photo
    size = tuple(max(1, round(_FINE * side / max(photo.size))) for side in photo.size)
    glows = [_data_uri(_glow(values), "PNG") for values in explanation.shown((size[0], size[1]))]
    words = zip(explanation.words, explanation.probabilities, glows, strict=True)
    return render(
        "captioner.explain",
        "figure.html",
        caption=explanation.caption.text,
        note=explanation.note,
        photo=_data_uri(photo, "JPEG"),
        dimmed=_data_uri(dimmed(photo), "JPEG"),
        width=photo.width,
        height=photo.height,
        words=[_Word(*word) for word in words],
    )


def _glow(values: Float32Array) -> Image.Image:
    """Convert a map (H, W) in 0..1 to colours whose opacity increases with the value."""
    rgba = np.concatenate([colours(values), 255 * opacity_of(values)[:, :, None]], axis=-1)
    return Image.fromarray(np.rint(rgba).astype(np.uint8))


def _data_uri(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=88, optimize=True)
    return data_uri(file.getvalue(), f"image/{kind.lower()}")
