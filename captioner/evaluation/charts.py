"""The drawings of the page: small SVG elements, written as text.

Horizontal places are percentages and vertical ones pixels, so that a drawing fills any width without distorting its
text. Values and scale marks (`marks`, evenly spaced, as `ticks` gives them) are in points, that is, scores times 100.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_HEIGHT = 20  # pixels of a plot in a line of a table
_TOP, _BASE, _BOTTOM = 12, 150, 174  # pixels of a histogram: the highest bar's top, all bars' foot, the end
_MOST_BARS = 40


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, evenly spaced, that enclose a range.

    Args:
        low: The range's lower end.
        high: Its upper end.
        most: How many steps there may be between its ends, about.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten; at least two.
    """
    step = _round_step((high - low) / most or 1)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(step * index, 10) for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is at least as large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def score_plot(value: float, interval: tuple[float, float] | None, marks: Sequence[float]) -> str:
    """A score as a bar from 0, with its interval.

    Args:
        value: A fraction.
        interval: Its bounds, likewise.
        marks: The scale, in points.
    """
    middle = _HEIGHT / 2
    parts = [_grid(marks, _HEIGHT)]
    parts.append(f'<rect class="bar" x="0" y="{middle - 4}" width="{_place(100 * value, marks)}" height="8"/>')
    if interval is not None:
        low, high = (_place(100 * bound, marks) for bound in interval)
        parts.append(_whisker(low, high, "line"))
    return _svg(parts, _HEIGHT)


def score_axis(marks: Sequence[float]) -> str:
    """The numbers below several `score_plot`s."""
    return _svg([_label(mark, _place(mark, marks), 12) for mark in marks], 16)


def difference_plot(value: float, interval: tuple[float, float], marks: Sequence[float]) -> str:
    """A difference as a dot with its interval; its colour says whether the interval is on one side of 0.

    Args:
        value: A fraction.
        interval: Its bounds, likewise.
        marks: The scale, in points.
    """
    kind = "better" if interval[0] > 0 else "worse" if interval[1] < 0 else "unclear"
    zero, place = _place(0, marks), _place(100 * value, marks)
    low, high = (_place(100 * bound, marks) for bound in interval)
    parts = [
        _grid(marks, _HEIGHT),
        f'<line class="grid zero" x1="{zero}" x2="{zero}" y1="-6" y2="{_HEIGHT + 6}"/>',
        _whisker(low, high, kind),
        f'<circle class="{kind}" cx="{place}" cy="{_HEIGHT / 2}" r="4"/>',
    ]
    return _svg(parts, _HEIGHT)


def difference_axis(marks: Sequence[float]) -> str:
    """The numbers below several `difference_plot`s."""
    return _svg([_label(mark, _place(mark, marks), 12, signed=True) for mark in marks], 16)


def histogram(
    values: NDArray[np.float64] | NDArray[np.int64],
    label: str,
    *,
    others: NDArray[np.int64] | None = None,
    last: int | None = None,
) -> str:
    """Bars that count values.

    Args:
        values: (N,), not negative; whole numbers get a bar each.
        label: What the drawing is, for those who don't see it.
        others: Further values; the bars that they would have, scaled to N in all, are drawn as strokes.
        last: Values from here on share the last bar.

    Returns:
        An SVG element.
    """
    # Not more bars than it takes to show nearly all of the others.
    top = max(float(values.max()), 0.0 if others is None else float(np.ceil(np.quantile(others, 0.995))))
    top = top if last is None else min(top, float(last))
    open_ended = max(float(drawn.max()) for drawn in (values, others) if drawn is not None) > top
    whole = values.dtype.kind in "iu"
    step = 1.0 if whole else _round_step(top / _MOST_BARS or 1)
    bars = int(top / step + 1e-9) + 1
    counts = _counts(values, step, bars)
    expected = np.zeros(bars) if others is None else _counts(others, step, bars) * (len(values) / len(others))
    heights = ticks(0, max(counts.max(), expected.max()), most=3)
    names = [f"{index}" if whole else f"{index * step:g} to {(index + 1) * step:g}" for index in range(bars)]
    if open_ended:
        names[-1] = f"{bars - 1} or more"
    parts = [*_count_axis(heights), *_bars(counts, names, heights[-1]), *_strokes(expected, heights[-1])]
    for mark in ticks(0, top):
        place = (mark / step + (0.5 if whole else 0)) / bars
        if place < 1 + 1e-9 and (mark == int(mark) or not whole):
            text = f"{mark:g}+" if open_ended and mark == top else f"{mark:g}"
            parts.append(f'<text x="{100 * place:.3f}%" y="{_BASE + 17}" text-anchor="middle">{text}</text>')
    return _svg(parts, _BOTTOM, label)


def _counts(values: NDArray[np.float64] | NDArray[np.int64], step: float, bars: int) -> NDArray[np.float64]:
    """How many values are in each bar; the last takes all that are beyond it."""
    indices = np.minimum((values / step + 1e-9).astype(np.int64), bars - 1)
    return np.bincount(indices, minlength=bars).astype(np.float64)  # (bars,)


def _y(count: float, highest: float) -> float:
    return round(_BASE - (_BASE - _TOP) * count / highest, 2)


def _count_axis(heights: Sequence[float]) -> Iterator[str]:
    for mark in heights:
        y = _y(mark, heights[-1])
        yield f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        if mark and mark == int(mark):
            yield f'<text x="100%" y="{y - 3}" text-anchor="end">{mark:,.0f}</text>'


def _bars(counts: NDArray[np.float64], names: Sequence[str], highest: float) -> Iterator[str]:
    width = 100 / len(counts)
    for index, (count, name) in enumerate(zip(counts.tolist(), names, strict=True)):
        x, y = (index + 0.06) * width, _y(count, highest)
        size = f'width="{0.88 * width:.3f}%" height="{_BASE - y:.2f}"'
        yield f'<rect class="bar" x="{x:.3f}%" y="{y}" {size}><title>{name}: {count:,.0f}</title></rect>'


def _strokes(expected: NDArray[np.float64], highest: float) -> Iterator[str]:
    width = 100 / len(expected)
    for index, count in enumerate(expected.tolist()):
        if count:
            y, ends = _y(count, highest), (index * width, (index + 1) * width)
            yield f'<line class="other" x1="{ends[0]:.3f}%" x2="{ends[1]:.3f}%" y1="{y}" y2="{y}"/>'


def _place(value: float, marks: Sequence[float]) -> str:
    return f"{100 * (value - marks[0]) / (marks[-1] - marks[0]):.3f}%"


def _grid(marks: Sequence[float], height: int) -> str:
    places = (_place(mark, marks) for mark in marks)
    return "".join(f'<line class="grid" x1="{x}" x2="{x}" y1="-6" y2="{height + 6}"/>' for x in places)


def _whisker(low: str, high: str, kind: str) -> str:
    middle = _HEIGHT / 2
    ends = "".join(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{middle - 4}" y2="{middle + 4}"/>' for x in (low, high))
    return f'<line class="{kind}" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>{ends}'


def _label(mark: float, place: str, y: int, signed: bool = False) -> str:
    text = (f"{mark:+g}" if signed and mark else f"{mark:g}").replace("-", "\u2212")
    return f'<text x="{place}" y="{y}" text-anchor="middle">{text}</text>'


def _svg(parts: Sequence[str], height: int, label: str | None = None) -> str:
    """An SVG element; without a label it repeats what stands beside it, and is not read out."""
    role = 'aria-hidden="true"' if label is None else f'role="img" aria-label="{label}"'
    return f'<svg {role} height="{height}">{"".join(parts)}</svg>'
