"""Charts for the HTML report and the documentation, as lists of SVG shapes.

The report's template renders them inline; `as_svg` writes one as a separate file.

Horizontal positions are percentages and vertical ones pixels, so a chart fills any width without
distorting its text. Values and scale marks (`marks`, evenly spaced, from `ticks`) are in points,
that is, scores times 100.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

_HEIGHT = 20  # pixels, of a plot in a table row
_TOP, _BASE, _BOTTOM = (
    12,
    150,
    174,
)  # pixels, of a histogram: top of the highest bar, base of all bars, bottom
_MOST_BARS = 40
_LEAST_RANGE = 1e-6  # points; a narrower one counts as empty
_PLOT_TOP, _PLOT_BASE, _PLOT_BOTTOM = (30, 270, 310)  # pixels, of a line plot
# The page's colours, for light and dark backgrounds.
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57534e; }
.grid { stroke: #d6d3d1; } .line { stroke: #b45309; stroke-width: 2; } .dot { fill: #b45309; }
.other { stroke: #57534e; stroke-width: 2; } .other-dot { fill: #57534e; }
.ideal { stroke: #a8a29e; stroke-width: 1.5; stroke-dasharray: 5 4; } .ideal-dot { fill: none; }
.key-line { fill: #b45309; } .key-other { fill: #57534e; } .key-ideal { fill: #a8a29e; }
@media (prefers-color-scheme: dark) {
  text { fill: #b8b2ac; } .grid { stroke: #57534e; } .line { stroke: #fbbf24; }
  .dot, .key-line { fill: #fbbf24; }
  .other { stroke: #b8b2ac; } .other-dot, .key-other { fill: #b8b2ac; }
}
"""


class Shape(NamedTuple):
    """An element of a drawing.

    Attributes:
        tag: The SVG tag.
        attributes: The SVG attributes.
        text: The element's text.
        title: The tooltip.
    """

    tag: str
    attributes: dict[str, str | float]
    text: str = ""
    title: str = ""


class Drawing(NamedTuple):
    """An SVG element.

    Attributes:
        shapes: Its elements, from back to front.
        height: In pixels.
        label: The label for screen readers; "" hides a drawing that only repeats adjacent text.
    """

    shapes: list[Shape]
    height: int
    label: str | None = None


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round, evenly spaced numbers that enclose a range.

    Args:
        low: The lower end of the range.
        high: The upper end.
        most: The approximate maximum number of steps.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten; at least two.
    """
    # Where no word matches, BLEU is 1e-16 rather than 0: all ticks would be rounded to 0.
    width = high - low if high - low > _LEAST_RANGE else most
    step = _round_step(width / most)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(step * index, 10) for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def score_plot(
    value: float, interval: tuple[float, float] | None, marks: Sequence[float]
) -> Drawing:
    """Draw a score as a bar from 0, with its interval.

    Args:
        value: The score, as a fraction.
        interval: The bounds of its interval, as fractions.
        marks: The scale, in points.
    """
    middle = _HEIGHT / 2
    start, end = sorted((_share(0, marks), _share(100 * value, marks)))
    size: dict[str, str | float] = {"width": _percent(end - start), "height": "8"}
    bar = Shape("rect", {"class": "bar", "x": _percent(start), "y": middle - 4, **size})
    whisker = [] if interval is None else _whisker(interval, marks, "line")
    return Drawing([*_grid(marks, _HEIGHT), bar, *whisker], _HEIGHT)


def score_axis(marks: Sequence[float]) -> Drawing:
    """Draw the axis below several `score_plot`s."""
    return Drawing([_label(mark, marks) for mark in marks], 16)


def difference_plot(
    value: float,
    interval: tuple[float, float],
    marks: Sequence[float],
    *,
    lower_is_better: bool = False,
) -> Drawing:
    """Draw a difference as a dot with its interval; the colour shows whether it excludes 0.

    Args:
        value: The difference, as a fraction.
        interval: The bounds of its interval, as fractions.
        marks: The scale, in points.
        lower_is_better: Whether negative differences are improvements.
    """
    up, down = ("worse", "better") if lower_is_better else ("better", "worse")
    kind = up if interval[0] > 0 else down if interval[1] < 0 else "unclear"
    zero, place = _place(0, marks), _place(100 * value, marks)
    shapes = [
        *_grid(marks, _HEIGHT),
        _line("grid zero", (zero, zero), (-6, _HEIGHT + 6)),
        *_whisker(interval, marks, kind),
        Shape("circle", {"class": kind, "cx": place, "cy": _HEIGHT / 2, "r": "4"}),
    ]
    return Drawing(shapes, _HEIGHT)


def difference_axis(marks: Sequence[float]) -> Drawing:
    """Draw the axis below several `difference_plot`s."""
    return Drawing([_label(mark, marks, signed=True) for mark in marks], 16)


def histogram(
    values: NDArray[np.float64] | NDArray[np.int64],
    label: str,
    *,
    others: NDArray[np.int64] | None = None,
    last: int | None = None,
) -> Drawing:
    """Draw a histogram.

    Args:
        values: (N,); each integer, which is not negative, gets its own bar.
        label: The label for screen readers.
        others: Values to compare with; their histogram, scaled to a total of N, is drawn as
            strokes.
        last: Values from here on share the last bar.

    Returns:
        The drawing.
    """
    # Enough bars to show nearly all of the other values.
    top = max(
        float(values.max()), 0.0 if others is None else float(np.ceil(np.quantile(others, 0.995)))
    )
    top = top if last is None else min(top, float(last))
    open_ended = max(float(drawn.max()) for drawn in (values, others) if drawn is not None) > top
    whole = values.dtype.kind in "iu"
    low = min(0.0, float(values.min()))
    step = 1.0 if whole else _round_step((top - low) / _MOST_BARS or 1)
    first = math.floor(low / step + 1e-9)  # the number of the first bar
    bars = math.floor(top / step + 1e-9) + 1 - first
    counts = _counts(values, step, bars, first)
    expected = (
        np.zeros(bars)
        if others is None
        else _counts(others, step, bars) * (len(values) / len(others))
    )
    heights = ticks(0, max(counts.max(), expected.max()), most=3)
    names = [
        f"{index}" if whole else f"{index * step:g} to {(index + 1) * step:g}"
        for index in range(first, first + bars)
    ]
    if open_ended:
        names[-1] = f"{bars - 1} or more"
    shapes = [
        *_count_axis(heights),
        *_bars(counts, names, heights[-1]),
        *_strokes(expected, heights[-1]),
    ]
    for mark in ticks(low, max(0.0, top)):
        place = (mark / step - first + (0.5 if whole else 0)) / bars
        if -1e-9 < place < 1 + 1e-9 and (mark == int(mark) or not whole):
            text = f"{mark:g}+" if open_ended and mark == top else f"{mark:g}"
            shapes.append(_text(f"{100 * place:.3f}%", _BASE + 17, text))
    return Drawing(shapes, _BOTTOM, label)


class Series(NamedTuple):
    """A line of a `line_plot`.

    Attributes:
        name: Its name in the legend.
        points: (x, y) of each point, from left to right.
        kind: Its style: "line", "other" or "ideal"; "ideal" has no dots at its points.
        titles: The tooltip of each point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"
    titles: Sequence[str] = ()


def line_plot(
    series: Sequence[Series],
    x_marks: Sequence[float],
    y_marks: Sequence[float],
    *,
    label: str,
    x_name: str,
    y_name: str,
) -> Drawing:
    """Draw a line plot with a legend above it.

    Args:
        series: The lines, from back to front.
        x_marks: The horizontal scale, evenly spaced; it may be descending.
        y_marks: The vertical scale.
        label: The label for screen readers.
        x_name: The label of the horizontal axis.
        y_name: The label of the vertical axis.

    Returns:
        The drawing.
    """
    left, right = 7.0, 97.0  # percent; the scale's numbers are to the left of the plot

    def across(value: float) -> str:
        share = (value - x_marks[0]) / (x_marks[-1] - x_marks[0])
        return f"{left + (right - left) * share:.3f}%"

    def down(value: float) -> float:
        share = (value - y_marks[0]) / (y_marks[-1] - y_marks[0])
        return round(_PLOT_BASE - (_PLOT_BASE - _PLOT_TOP) * share, 2)

    shapes = [_text("0%", 12, y_name, anchor="start")]
    for mark in y_marks:
        shapes.append(_line("grid", (f"{left}%", f"{right}%"), (down(mark), down(mark))))
        shapes.append(_text(f"{left - 1}%", down(mark) + 4, f"{mark:g}", anchor="end"))
    for mark in x_marks:
        shapes.append(_text(across(mark), _PLOT_BASE + 17, f"{mark:g}"))
    shapes.append(_text(f"{(left + right) / 2}%", _PLOT_BOTTOM - 6, x_name))
    for place, each in enumerate(reversed(series)):
        key = _text(f"{right - 22 * place}%", 12, each.name, anchor="end")
        key.attributes["class"] = f"key-{each.kind}"
        shapes.append(key)
    for _, points, kind, titles in series:
        for (x, y), (next_x, next_y) in pairwise(points):
            shapes.append(_line(kind, (across(x), across(next_x)), (down(y), down(next_y))))
        said = titles or [""] * len(points)
        for (x, y), title in zip(points, said, strict=True):
            dot: dict[str, str | float] = {"class": "dot" if kind == "line" else f"{kind}-dot"}
            shapes.append(
                Shape("circle", {**dot, "cx": across(x), "cy": down(y), "r": "4"}, title=title)
            )
    return Drawing(shapes, _PLOT_BOTTOM, label)


def as_svg(drawing: Drawing, width: int = 640) -> str:
    """Render a drawing as a standalone SVG file.

    Args:
        drawing: A drawing made by `line_plot`.
        width: In pixels.

    Returns:
        The file's text.
    """
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": str(width),
            "height": str(drawing.height),
            "viewBox": f"0 0 {width} {drawing.height}",
            "role": "img",
            "aria-label": drawing.label or "",
        },
    )
    ElementTree.SubElement(root, "style").text = _STYLE
    for shape in drawing.shapes:
        attributes = {name: str(value) for name, value in shape.attributes.items()}
        element = ElementTree.SubElement(root, shape.tag, attributes)
        element.text = shape.text or None
        if shape.title:
            ElementTree.SubElement(element, "title").text = shape.title
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(
    values: NDArray[np.float64] | NDArray[np.int64], step: float, bars: int, first: int = 0
) -> NDArray[np.float64]:
    """Count the values of each bar; the last bar includes all larger values."""
    indices = np.minimum((values / step - first + 1e-9).astype(np.int64), bars - 1)
    return np.bincount(indices, minlength=bars).astype(np.float64)  # (bars,)


def _y(count: float, highest: float) -> float:
    return round(_BASE - (_BASE - _TOP) * count / highest, 2)


def _count_axis(heights: Sequence[float]) -> Iterator[Shape]:
    for mark in heights:
        y = _y(mark, heights[-1])
        yield _line("grid", ("0", "100%"), (y, y))
        if mark and mark == int(mark):
            yield _text("100%", y - 3, f"{mark:,.0f}", anchor="end")


def _bars(counts: NDArray[np.float64], names: Sequence[str], highest: float) -> Iterator[Shape]:
    width = 100 / len(counts)
    for index, (count, name) in enumerate(zip(counts.tolist(), names, strict=True)):
        x, y = (index + 0.06) * width, _y(count, highest)
        size = {"width": f"{0.88 * width:.3f}%", "height": f"{_BASE - y:.2f}"}
        yield Shape(
            "rect",
            {"class": "bar", "x": f"{x:.3f}%", "y": y, **size},
            title=f"{name}: {count:,.0f}",
        )


def _strokes(expected: NDArray[np.float64], highest: float) -> Iterator[Shape]:
    width = 100 / len(expected)
    for index, count in enumerate(expected.tolist()):
        if count:
            y = _y(count, highest)
            yield _line("other", (f"{index * width:.3f}%", f"{(index + 1) * width:.3f}%"), (y, y))


def _place(value: float, marks: Sequence[float]) -> str:
    return _percent(_share(value, marks))


def _share(value: float, marks: Sequence[float]) -> float:
    """Return the place of a value on a scale, from 0 to 1."""
    return (value - marks[0]) / (marks[-1] - marks[0])


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def _line(kind: str, x: tuple[str, str], y: tuple[float, float]) -> Shape:
    return Shape("line", {"class": kind, "x1": x[0], "x2": x[1], "y1": y[0], "y2": y[1]})


def _text(x: str, y: float, text: str, anchor: str = "middle") -> Shape:
    return Shape("text", {"x": x, "y": y, "text-anchor": anchor}, text)


def _grid(marks: Sequence[float], height: int) -> list[Shape]:
    places = [_place(mark, marks) for mark in marks]
    return [_line("grid", (x, x), (-6, height + 6)) for x in places]


def _whisker(interval: tuple[float, float], marks: Sequence[float], kind: str) -> list[Shape]:
    middle = _HEIGHT / 2
    low, high = (_place(100 * bound, marks) for bound in interval)
    ends = [_line(kind, (x, x), (middle - 4, middle + 4)) for x in (low, high)]
    return [_line(kind, (low, high), (middle, middle)), *ends]


def _label(mark: float, marks: Sequence[float], signed: bool = False) -> Shape:
    text = (f"{mark:+g}" if signed and mark else f"{mark:g}").replace("-", "\u2212")
    return _text(_place(mark, marks), 12, text)
