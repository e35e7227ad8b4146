"""The results of an evaluation: scores, comparisons and groups."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.evaluation.results import ImageId


@dataclass(frozen=True)
class Group:
    """Scores of a group of images.

    Attributes:
        name: The objects in them: a supercategory ("animal") or a category ("animal: dog").
        n_images: The number of images.
        scores: By published name, as in `Evaluation`.
    """

    name: str
    n_images: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """The difference of one score between two systems.

    Attributes:
        other: The other system's score.
        difference: This system's score minus the other's.
        interval: The 95 % interval of the difference, by the paired bootstrap over images.
        p_value: Two-sided; see `captioner.evaluation.statistics.p_value`.
    """

    other: float
    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """A comparison with another system on the same images.

    Attributes:
        name: The other system's results file.
        differences: By published name of the score.
        missing: The number of images left out because only the other system has no caption.
    """

    name: str
    differences: dict[str, Difference]
    missing: int = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of evaluating captions of N images.

    Scores have their published names, in this order: BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D, METEOR,
    SPICE, CHAIR. They are fractions (CIDEr-D: 0 to 10), and are published and shown times 100.

    Attributes:
        scores: The scores of the whole corpus, equal to the official COCO scorer's.
        intervals: Their 95 % intervals, by the bootstrap over images; may be empty.
        per_image: The scores of each image (N,); nan where SPICE has none, which makes the corpus
            score nan too.
        image_ids: The ids of the N images.
        captions: The raw caption of each.
        references: The raw reference captions of each.
        paths: The file of each; None if it is missing.
        health: Statistics of the captions alone; see `captioner.evaluation.health.FIGURES`.
        groups: Scores by object category; empty without an instances file.
        comparison: The comparison with another system, if there is one.
        title: What was scored: the name of a results file or of a model.
        annotated: The number of annotated images; more than N if some have no caption.
        most_frequent: The most frequent caption.
        facts: Provenance for JSON: files, model, decoding options, versions.
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
    def n_images(self) -> int:
        """The number of images scored, N."""
        return len(self.image_ids)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of scores.json: scores by name, counts, and other findings."""
        more = {
            "annotated": self.annotated if self.annotated > self.n_images else 0,
            "intervals": self.intervals,
            "health": self.health,
            "most frequent caption": self.most_frequent,
            "groups": [asdict(group) for group in self.groups],
            "comparison": self.comparison and asdict(self.comparison),
            "facts": self.facts,
        }
        return {
            **self.scores,
            "images": self.n_images,
            **{name: value for name, value in more.items() if value},
        }
