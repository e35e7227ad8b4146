"""An explanation as one HTML page that asks for nothing else: pointing at a word, or choosing it, shows its map."""

import io
from base64 import b64encode
from html import escape
from importlib.resources import files
from string import Template

import numpy as np
from PIL import Image

from captioner.explain.explanation import Explanation
from captioner.explain.maps import Float32Array, colours, dimmed, opacity_of

_FINE = 128  # pixels, the longer side of a map; the browser makes it smooth

# Of each word, by its number. What is pointed at goes before what is chosen; browsers without :has pass over that.
_RULES = """\
  :root { --glow{n}: url({glow}); }
  #map{n}, label[for=word{n}] { --glow: var(--glow{n}); }
  #word{n}:checked ~ .stage #map{n} { visibility: visible; }
  #word{n}:checked ~ .words label[for=word{n}] .word {
    color: var(--accent); text-decoration: underline; text-underline-offset: .2em; }
  #word{n}:focus-visible ~ .words label[for=word{n}] .panel { outline: 3px solid var(--accent); outline-offset: 2px; }
  fieldset:has(label[for=word{n}]:hover) #map{n}.map { visibility: visible; z-index: 1; }"""
_INPUT = '<input type="radio" name="word" id="word{n}">'
_MAP = '<div class="map" id="map{n}"></div>'
_LABEL = """\
<label for="word{n}"><span class="word">{word}</span> <span class="probability">{probability:.0%}</span>
<span class="panel"></span></label>"""


def to_html(explanation: Explanation) -> str:
    """Write the page.

    Everything is in it, the photo and the maps as data URIs; it has no script. The words are radio buttons of one
    group, so that it works by pointer, touch and keyboard.

    Returns:
        The HTML, to be saved in UTF-8.
    """
    photo = explanation.photo
    size = tuple(max(1, round(_FINE * side / max(photo.size))) for side in photo.size)
    glows = [_data_uri(_glow(values), "PNG") for values in explanation.shown((size[0], size[1]))]
    numbers = range(len(explanation.words))
    words = zip(numbers, explanation.words, explanation.probabilities, strict=True)
    template = files("captioner.explain").joinpath("figure.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        caption=escape(explanation.caption.text),
        note=escape(explanation.note),
        photo=_data_uri(photo, "JPEG"),
        dimmed=_data_uri(dimmed(photo), "JPEG"),
        width=photo.width,
        height=photo.height,
        rules="\n".join(_filled(_RULES, n=n, glow=glows[n]) for n in numbers),
        inputs="\n".join(_INPUT.format(n=n) for n in numbers),
        maps="".join(_MAP.format(n=n) for n in numbers),
        labels="\n".join(_LABEL.format(n=n, word=escape(word), probability=p) for n, word, p in words),
    )


def _filled(rules: str, *, n: int, glow: str) -> str:
    """Rules with their {n} and {glow} filled in; `format` would stumble over the braces of CSS."""
    return rules.replace("{n}", str(n)).replace("{glow}", glow)


def _glow(values: Float32Array) -> Image.Image:
    """A map (H, W) in 0..1 as colours that hide more of the photo the higher it is."""
    rgba = np.concatenate([colours(values), 255 * opacity_of(values)[:, :, None]], axis=-1)
    return Image.fromarray(np.rint(rgba).astype(np.uint8))


def _data_uri(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=88, optimize=True)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode('ascii')}"
