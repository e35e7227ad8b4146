"""Draw a figure like in Show, Attend and Tell: one panel per word. Requires matplotlib."""

import math
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from captioner.explain.explanation import Explanation
from captioner.explain.maps import heat

_PANEL = 1.55  # inches, the side of a square panel; others have the same area
_GAP, _MARGIN = 0.14, 0.22
_ABOVE = 0.26  # inches above a panel, for its word
_LINE = 0.27  # inches, a line of the caption
_DPI = 160
_PIXELS = 420  # of a panel's longer side: 240 per inch, for print
_INK, _MUTED = "#1a1a1a", "#6b6b6b"
_PLAIN: dict[str, Any] = {"parse_math": False, "family": "sans-serif"}  # a word may be "$"


def draw(explanation: Explanation) -> Figure:
    """Draw an explanation: the photo, then a panel per word with the word and its probability.

    pyplot is not used, as its figures are global state.

    Returns:
        A figure of T + 1 axes.
    """
    photo = explanation.photo.copy()
    photo.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    width, height = (_PANEL * side / math.sqrt(photo.width * photo.height) for side in photo.size)
    columns, rows = layout(len(explanation.words) + 1, (width + _GAP) / (height + _ABOVE + _GAP))
    across = 2 * _MARGIN + columns * (width + _GAP) - _GAP
    title = wrap(explanation.caption.text, max(12, int(across * 9.5)))
    top = _MARGIN + _LINE * len(title)
    note = wrap(explanation.note, int(across * 17))
    down = top + rows * (_ABOVE + height + _GAP) + 0.17 * len(note) + _MARGIN
    figure = Figure(figsize=(across, down), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = _MARGIN / across
    figure.text(
        left,
        1 - _MARGIN / down,
        "\n".join(title),
        size=13,
        color=_INK,
        va="top",
        linespacing=1.3,
        **_PLAIN,
    )
    figure.text(
        left,
        _MARGIN / down,
        "\n".join(note),
        size=7,
        color=_MUTED,
        va="bottom",
        linespacing=1.4,
        **_PLAIN,
    )

    def panel(number: int) -> Axes:
        row, column = divmod(number, columns)
        x = _MARGIN + column * (width + _GAP)
        y = top + row * (_ABOVE + height + _GAP) + _ABOVE
        axes = figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
        axes.set_axis_off()
        return axes

    panel(0).imshow(photo, aspect="auto")
    maps = explanation.shown(photo.size)
    for number, word in enumerate(explanation.words):
        axes = panel(number + 1)
        axes.imshow(heat(photo, maps[number]), aspect="auto")
        _head(axes, word, f"{explanation.probabilities[number]:.0%}", width)
    return figure


def layout(panels: int, aspect: float) -> tuple[int, int]:
    """Choose columns and rows so that the figure is about 3:2 and the last row nearly full."""
    columns = min(panels, max(2, round(math.sqrt(1.6 * panels / aspect))))
    rows = math.ceil(panels / columns)
    return math.ceil(panels / rows), rows


def _head(axes: Axes, word: str, probability: str, width: float) -> None:
    """Write the word (left) and its probability (right) above a panel; shrink long words."""
    letters = (width * 72 - 26) / 0.72  # the available width in points, as bold letters
    size = max(6.0, min(10.0, letters / len(word)))
    if size * len(word) > letters:
        word = f"{word[: int(letters / size) - 1]}\N{HORIZONTAL ELLIPSIS}"
    above: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "baseline",
    }
    axes.annotate(word, (0, 1), (0, 4), size=size, color=_INK, weight="bold", **above, **_PLAIN)
    axes.annotate(
        probability, (1, 1), (0, 4), size=7.5, color=_MUTED, ha="right", **above, **_PLAIN
    )
