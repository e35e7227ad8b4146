"""Prepare an evaluation for the HTML report's template: texts, formatted numbers, charts."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from captioner.errors import ImageError
from captioner.evaluation.charts import (
    Drawing,
    difference_axis,
    difference_plot,
    histogram,
    score_axis,
    score_plot,
    ticks,
)
from captioner.evaluation.findings import Comparison, Difference, Evaluation, Group
from captioner.evaluation.health import FIGURES, figure_text
from captioner.evaluation.metrics import LOWER_IS_BETTER
from captioner.evaluation.wording import notes, points
from captioner.images.thumbnails import Thumbnail, thumbnail
from captioner.tokenizer import tokenize

logger = logging.getLogger(__name__)

THUMBNAIL = (400, 300)  # pixels at most; shown about 260 wide, larger for high-density screens
LONGEST = 40  # words; longer captions share the last bar of the histogram


class ScoreRow(NamedTuple):
    """A score; an undefined one has no plot."""

    name: str
    score: str
    interval: str
    plot: Drawing | None


class Scores(NamedTuple):
    """The scores of the corpus, the axis below their plots, and notes."""

    rows: list[ScoreRow]
    axis: Drawing
    intervals: bool
    notes: list[str]


class DifferenceRow(NamedTuple):
    """The difference of a score to another system's; an undefined one has no plot."""

    name: str
    other: str
    this: str
    difference: str
    interval: str
    p: str
    plot: Drawing | None


class Differences(NamedTuple):
    """The differences of all scores to another system's, the axis below their plots, and a note."""

    other: str
    rows: list[DifferenceRow]
    axis: Drawing
    note: str


class Figure(NamedTuple):
    """A statistic of the captions alone."""

    name: str
    value: str
    meaning: str


class Ranking(NamedTuple):
    """The distribution of the score that images are sorted by."""

    name: str
    mean: str
    median: str
    histogram: Drawing


class Lengths(NamedTuple):
    """The lengths of captions and references, in words."""

    captions: str
    references: str
    histogram: Drawing


class GroupRow(NamedTuple):
    """The scores of a group of images."""

    name: str
    n_images: str
    scores: list[str]


class Groups(NamedTuple):
    """The scores of all groups."""

    names: list[str]
    rows: list[GroupRow]


class Card(NamedTuple):
    """One image: caption, scores, references, and a thumbnail if the image can be read."""

    name: str
    file: str
    caption: str
    figures: str
    references: tuple[str, ...]
    thumbnail: Thumbnail | None


def summary(evaluation: Evaluation) -> str:
    """Return the numbers of images and references, as a sentence."""
    images, references = len(evaluation.image_ids), sum(map(len, evaluation.references))
    return f"{_count(images, 'image')}, scored against {_count(references, 'reference caption')}."


def facts(evaluation: Evaluation) -> dict[str, str]:
    """Return the provenance of the scores, formatted."""
    return {name: _fact(value) for name, value in evaluation.facts.items()}


def scores(evaluation: Evaluation) -> Scores | None:
    """Prepare the scores of the corpus; None if there are none."""
    if not evaluation.scores:
        return None
    intervals = evaluation.intervals
    reached = [*evaluation.scores.values(), *(end for ends in intervals.values() for end in ends)]
    known = [0.0, *(value for value in reached if not math.isnan(value))]
    marks = ticks(100 * min(known), 100 * max(known))
    rows = [
        ScoreRow(
            name,
            points(value),
            _interval(intervals[name]) if name in intervals else "",
            None if math.isnan(value) else score_plot(value, intervals.get(name), marks),
        )
        for name, value in evaluation.scores.items()
    ]
    return Scores(rows, score_axis(marks), bool(intervals), notes(evaluation))


def differences(evaluation: Evaluation, comparison: Comparison | None) -> Differences | None:
    """Prepare the differences to another system; None without scores of both."""
    if comparison is None or not comparison.differences:
        return None
    known = [entry for entry in comparison.differences.values() if not math.isnan(entry.difference)]
    reach = max(
        [0.001, *(abs(bound) for entry in known for bound in (entry.difference, *entry.interval))]
    )
    marks = ticks(-100 * reach, 100 * reach)
    rows = [
        DifferenceRow(
            name,
            points(entry.other),
            points(evaluation.scores[name]),
            points(entry.difference, "+").replace("-", "\u2212"),
            _interval(entry.interval),
            _p_value(entry.p_value),
            _difference_plot(name, entry, marks),
        )
        for name, entry in comparison.differences.items()
    ]
    note = "differences above 0 are in favour of the first"
    if LOWER_IS_BETTER.intersection(comparison.differences):
        note += ", those of CHAIR if they are below 0"
    return Differences(comparison.name, rows, difference_axis(marks), note)


def health(evaluation: Evaluation) -> list[Figure]:
    """Prepare the statistics of the captions alone."""
    return [
        Figure(name, figure_text(name, value), FIGURES.get(name, ""))
        for name, value in evaluation.health.items()
    ]


def ranking(evaluation: Evaluation) -> Ranking | None:
    """Prepare the distribution of the score that images are sorted by; None without scores."""
    name = ranked_by(evaluation)
    if not name:
        return None
    values = 100 * evaluation.per_image[name]  # (N,)
    values = values[~np.isnan(values)]
    drawing = histogram(values, f"How many images have which {name}")
    return Ranking(name, f"{values.mean():.1f}", f"{np.median(values):.1f}", drawing)


def lengths(evaluation: Evaluation) -> Lengths:
    """Prepare the distribution of lengths."""
    captions = np.array([len(tokenize(caption)) for caption in evaluation.captions])  # (N,)
    references = np.array(
        [len(tokenize(text)) for texts in evaluation.references for text in texts]
    )
    drawing = histogram(
        captions, "How many captions have how many words", others=references, last=LONGEST
    )
    return Lengths(f"{captions.mean():.1f}", f"{references.mean():.1f}", drawing)


def groups(found: Sequence[Group]) -> Groups | None:
    """Prepare the scores of groups; None if there are no groups."""
    if not found:
        return None
    names = list(found[0].scores)
    rows = [
        GroupRow(group.name, f"{group.n_images:,}", [points(group.scores[name]) for name in names])
        for group in found
    ]
    return Groups(names, rows)


def ranked_by(evaluation: Evaluation) -> str:
    """Return the score to sort images by: CIDEr-D if possible, as BLEU is poor for one caption."""
    names = [name for name, values in evaluation.per_image.items() if not np.isnan(values).all()]
    names.sort(key=lambda name: name not in LOWER_IS_BETTER)  # the last one is taken
    return "CIDEr-D" if "CIDEr-D" in names else names[-1] if names else ""


def worst_and_best(evaluation: Evaluation, shown: int) -> tuple[list[int], list[int]]:
    """Choose the worst and the best images to show, without duplicates, most extreme first."""
    first = ranked_by(evaluation)
    if not first:
        return [], []
    rising = {
        name: -values if name in LOWER_IS_BETTER else values
        for name, values in evaluation.per_image.items()
    }
    others = [values for name, values in rising.items() if name != first]
    order = np.lexsort([*others, rising[first]])  # ties, such as a CIDEr-D of 0, are common
    order = order[~np.isnan(evaluation.per_image[first][order])].tolist()
    half = len(order) // 2
    return order[:half][:shown], order[half:][::-1][:shown]


def card(evaluation: Evaluation, index: int) -> Card:
    """Prepare one of the best or worst images."""
    path, name = evaluation.paths[index], f"Image {evaluation.image_ids[index]}"
    values = [(metric, values[index]) for metric, values in evaluation.per_image.items()]
    first = ranked_by(evaluation)
    values.sort(key=lambda pair: pair[0] != first)
    shown = [
        (metric, value)
        for metric, value in values
        if metric == first or not metric.startswith("BLEU")
    ]
    return Card(
        name,
        "" if path is None else path.name,
        evaluation.captions[index].strip(),
        ", ".join(f"{metric} {points(value)}" for metric, value in shown),
        evaluation.references[index],
        None if path is None else _thumbnail(path),
    )


def table(evaluation: Evaluation) -> dict[str, object]:
    """Return the data of the table of images, for JSON."""
    names = list(evaluation.per_image)
    columns = [100 * evaluation.per_image[name] for name in names]
    values = (
        np.reshape(columns, (len(names), len(evaluation.image_ids))).T.round(2).astype(object)
    )  # (N, metrics)
    values[values != values] = None  # nan, which JSON doesn't have
    texts = zip(evaluation.image_ids, evaluation.captions, evaluation.references, strict=True)
    rows = [
        [str(image_id), caption, references, row]
        for (image_id, caption, references), row in zip(texts, values.tolist(), strict=True)
    ]
    return {"columns": ["Image", "Caption", *names], "rows": rows}


def _thumbnail(path: Path) -> Thumbnail | None:
    """Make a thumbnail; None if the file is not readable."""
    try:
        return thumbnail(path, THUMBNAIL)
    except ImageError as error:
        logger.info("%s; the report has no thumbnail of it", error)
        return None


def _fact(value: object) -> str:
    return (
        ", ".join(f"{key} {entry}" for key, entry in value.items())
        if isinstance(value, dict)
        else str(value)
    )


def _difference_plot(name: str, entry: Difference, marks: Sequence[float]) -> Drawing | None:
    return (
        None
        if math.isnan(entry.difference)
        else difference_plot(
            entry.difference, entry.interval, marks, lower_is_better=name in LOWER_IS_BETTER
        )
    )


def _interval(bounds: tuple[float, float]) -> str:
    low, high = (points(bound).replace("-", "\u2212") for bound in bounds)
    return f"[{low}, {high}]" if not math.isnan(bounds[0]) else "\u2013"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "\u2013"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
