"""What is found out about captions: scores and all around them, as text and as files."""

import csv
import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from captioner.evaluation.health import figure_text
from captioner.evaluation.results import ImageId
from captioner.evaluation.scoring import score_tokens
from captioner.tokenizer import tokenize

Id = TypeVar("Id", bound=Hashable)

FEW = 30  # images: intervals of fewer are too narrow, as draws from a few are too much alike


@dataclass(frozen=True)
class Group:
    """Scores of some of the images.

    Attributes:
        name: What is in them: a supercategory ("animal") or a category ("animal: dog").
        images: How many they are.
        scores: By published name, as in `Evaluation`.
    """

    name: str
    images: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """One score of a system, and how it differs from another system's.

    Attributes:
        other: The other system's score.
        difference: This system's less the other's.
        interval: The 95 % interval of the difference, by the paired bootstrap over images.
        p_value: Two-sided; see `captioner.evaluation.statistics.p_value`.
    """

    other: float
    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """How a system differs from another one on the same images.

    Attributes:
        name: The other one's results file.
        differences: By published name.
        missing: How many images are left out because only the other one has no caption of them.
    """

    name: str
    differences: dict[str, Difference]
    missing: int = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well captions agree with references, and what else is to be known of them.

    Scores go by their published names, in this order: BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D, METEOR, SPICE. They are
    fractions, CIDEr-D 0 to 10; they are published, and shown, times 100.

    Attributes:
        scores: The official COCO scorer's numbers of the whole corpus.
        intervals: Their 95 % intervals, by the bootstrap over images; may be empty.
        per_image: Each image's own scores (N,); nan where SPICE has none, and then the whole set has none either.
        image_ids: The images that are scored, N.
        captions: What is said of each, as it was written.
        references: The reference captions of each, as people wrote them.
        paths: Where the images are; None for those that aren't there.
        health: Figures about the captions alone; see `captioner.evaluation.health.FIGURES`.
        groups: Scores by what is in the images, if that was given.
        comparison: How the captions hold against another system's, if those were given.
        title: What was scored: the name of a results file or of a model.
        annotated: How many images the annotations have: more than N if some have no caption.
        most_frequent: The caption that is said most often.
        facts: How it came about: files, model, decoding, versions; as JSON can hold them.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_image: dict[str, NDArray[np.float64]]
    image_ids: tuple[ImageId, ...]
    captions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    paths: tuple[Path | None, ...]
    health: dict[str, float | int]
    groups: tuple[Group, ...]
    comparison: Comparison | None
    title: str
    annotated: int
    most_frequent: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images were scored, N."""
        return len(self.image_ids)

    def to_dict(self) -> dict[str, Any]:
        """What JSON should hold: scores by their published names, how many images, and whatever else is known."""
        more = {
            "annotated": self.annotated if self.annotated > self.images else 0,
            "intervals": self.intervals,
            "health": self.health,
            "most frequent caption": self.most_frequent,
            "groups": [asdict(group) for group in self.groups],
            "comparison": self.comparison and asdict(self.comparison),
            "facts": self.facts,
        }
        return {**self.scores, "images": self.images, **{name: value for name, value in more.items() if value}}


def score(references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str]) -> Evaluation:
    """Scores captions against raw references by BLEU, ROUGE-L and CIDEr-D, and no more than that.

    Args:
        references: One or more reference captions for each image, as people wrote them; tokenised here.
        captions: The caption to score for each image.

    Returns:
        Scores of the corpus and of each image, in the order of `references`.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
    """
    reference_tokens = {image_id: [tokenize(text) for text in texts] for image_id, texts in references.items()}
    scored = score_tokens(reference_tokens, {image_id: tokenize(text) for image_id, text in captions.items()})
    return Evaluation(
        scores=scored.scores,
        intervals={},
        per_image=scored.per_image,
        image_ids=tuple(references),  # type: ignore[arg-type]
        captions=tuple(captions[image_id] for image_id in references),
        references=tuple(tuple(texts) for texts in references.values()),
        paths=(None,) * len(references),
        health={},
        groups=(),
        comparison=None,
        title="captions",
        annotated=len(references),
    )


def save_scores(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Writes `Evaluation.to_dict` as JSON: fractions in full precision under their published names, null for nan."""
    text = json.dumps(_without_nan(evaluation.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)
    # What UTF-8 cannot hold, odd bytes of a file name, is written as the escape that JSON has for it.
    Path(path).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _without_nan(value: Any) -> Any:
    """The same for JSON, which has no nan."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_per_image(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Writes a CSV table with a row for each image: its id, its file, its caption and its own scores."""
    columns = [values.tolist() for values in evaluation.per_image.values()]
    files = ["" if file is None else str(file) for file in evaluation.paths]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "file", "caption", *evaluation.per_image])
        table.writerows(zip(evaluation.image_ids, files, evaluation.captions, *columns, strict=True))


def as_text(evaluation: Evaluation) -> str:
    """What people read in a terminal: scores with their intervals, and what else is known, in short."""
    parts = [
        _scores(evaluation),
        _differences(evaluation.comparison),
        _groups(evaluation.groups),
        _health(evaluation.health, evaluation.most_frequent),
    ]
    return "\n\n".join(part for part in parts if part)


def notes(evaluation: Evaluation) -> list[str]:
    """What keeps scores from being what they seem: a sentence for each."""
    found = []
    n = evaluation.images
    if 0 < n < FEW and evaluation.intervals:
        found.append(f"Fewer than {FEW} images: too few to rely on intervals and p-values.")
    if n == 1 and "CIDEr-D" in evaluation.scores:
        found.append("CIDEr-D is 0 for any caption where there is only one image.")
    for name, value in evaluation.scores.items():
        if math.isnan(value):
            unknown = int(np.isnan(evaluation.per_image[name]).sum())
            found.append(f"{name} is unknown of {unknown:,} of the {n:,} images, and so of the whole set.")
    return found


def left_out(evaluation: Evaluation) -> list[str]:
    """How many annotated images are not scored, and whose captions are missing: sentences; none if all are scored."""
    n, annotated, comparison = evaluation.images, evaluation.annotated, evaluation.comparison
    if n >= annotated:
        return []
    theirs = 0 if comparison is None else comparison.missing
    found = [f"{n:,} of {annotated:,} annotated images {'was' if n == 1 else 'were'} scored."]
    if ours := annotated - n - theirs:
        found.append(f"Without a caption: {ours:,}.")
    if comparison is not None and theirs:
        found.append(f"Captioned, but not in {comparison.name}: {theirs:,}.")
    return found


def points(value: float, sign: str = "") -> str:
    """A fraction as it is published: times 100, with one decimal; a dash for nan.

    Args:
        value: The fraction.
        sign: "+" to have one before positive numbers.
    """
    return "\u2013" if math.isnan(value) else f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # + 0.0: there is a -0.0


def _scores(evaluation: Evaluation) -> str:
    """Names above numbers, times 100 with one decimal, as they are published; intervals below."""
    rows = [
        [*evaluation.scores, "images"],
        [*map(points, evaluation.scores.values()), f"{evaluation.images}"],
    ]
    lines = []
    if evaluation.intervals:
        ends = evaluation.intervals.values()
        rows.append(["" if math.isnan(low) else f"{points(low)}-{points(high)}" for low, high in ends] + [""])
        lines.append("Below the scores: 95 % intervals, by the bootstrap over images.")
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
    """The supercategories; the categories would fill the screen."""
    shown = [group for group in groups if ": " not in group.name]
    if not shown:
        return ""
    rows = [["", *shown[0].scores, "images"]]
    for group in shown:
        rows.append([group.name, *map(points, group.scores.values()), f"{group.images}"])
    width = max(len(row[0]) for row in rows)
    return _table([[row[0].ljust(width), *row[1:]] for row in rows])


def _health(health: Mapping[str, float | int], most_frequent: str) -> str:
    """What is always of interest, and what is wrong if anything is."""
    if not health:
        return ""
    always = ("mean length", "vocabulary", "unique captions", "novel captions")
    wrong = ("bad endings", "repeated trigrams", "empty captions", "unknown words")
    lines = [
        ", ".join(f"{name} {figure_text(name, health[name])}" for name in names)
        for names in ([name for name in always if name in health], [name for name in wrong if health.get(name)])
    ]
    times = health["most frequent caption"]
    lines.append(f"most frequent, {times:,} times: {most_frequent}" if times > 1 else "")
    return "\n".join(line for line in lines if line)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
