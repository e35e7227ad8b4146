"""The evaluation report as text for the terminal."""

import math
from collections.abc import Mapping, Sequence

from captioner.evaluation.findings import Comparison, Evaluation, Group
from captioner.evaluation.health import figure_text
from captioner.evaluation.wording import left_out, notes, points


def as_text(evaluation: Evaluation) -> str:
    """Format the report: scores with intervals, differences, groups and statistics."""
    parts = [
        _scores(evaluation),
        _differences(evaluation.comparison),
        _groups(evaluation.groups),
        _health(evaluation.health, evaluation.most_frequent),
    ]
    return "\n\n".join(part for part in parts if part)


def _scores(evaluation: Evaluation) -> str:
    """Format names, scores (times 100, one decimal, as published) and intervals in columns."""
    rows = [
        [*evaluation.scores, "images"],
        [*map(points, evaluation.scores.values()), f"{evaluation.n_images}"],
    ]
    lines = []
    if evaluation.intervals:
        ends = evaluation.intervals.values()
        rows.append(
            ["" if math.isnan(low) else f"{points(low)}-{points(high)}" for low, high in ends]
            + [""]
        )
        lines.append("Below the scores: 95 % intervals by the bootstrap over images.")
    return "\n".join([_table(rows), *lines, *notes(evaluation), *left_out(evaluation)])


def _differences(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.differences:
        return ""
    lines = [f"against {comparison.name}, with 95 % intervals of the difference"]
    for name, found in comparison.differences.items():
        low, high = map(points, found.interval)
        p = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
        rest = "" if math.isnan(found.difference) else f" [{low}, {high}], {p}"
        lines.append(f"{name:7} {points(found.difference, '+')}{rest}")
    return "\n".join(lines)


def _groups(groups: Sequence[Group]) -> str:
    """Format the scores of supercategories; there are too many categories for a terminal."""
    shown = [group for group in groups if ": " not in group.name]
    if not shown:
        return ""
    rows = [["", *shown[0].scores, "images"]]
    for group in shown:
        rows.append([group.name, *map(points, group.scores.values()), f"{group.n_images}"])
    width = max(len(row[0]) for row in rows)
    return _table([[row[0].ljust(width), *row[1:]] for row in rows])


def _health(health: Mapping[str, float | int], most_frequent: str) -> str:
    """Format the main statistics, and defects if there are any."""
    if not health:
        return ""
    always = ("mean length", "vocabulary", "unique captions", "novel captions")
    wrong = (
        *("bad endings", "repeated trigrams", "repeated words"),
        *("empty captions", "unknown words"),
    )
    lines = [
        ", ".join(f"{name} {figure_text(name, health[name])}" for name in names)
        for names in (
            [name for name in always if name in health],
            [name for name in wrong if health.get(name)],
        )
    ]
    times = health["most frequent caption"]
    lines.append(f"most frequent, {times:,} times: {most_frequent}" if times > 1 else "")
    return "\n".join(line for line in lines if line)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
