"""What is found out about captions: scores and all around them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.evaluation.results import ImageId


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

    Scores go by their published names, in this order: BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D, METEOR,
    SPICE. They are fractions, CIDEr-D 0 to 10; they are published, and shown, times 100.

    Attributes:
        scores: The official COCO scorer's numbers of the whole corpus.
        intervals: Their 95 % intervals, by the bootstrap over images; may be empty.
        per_image: Each image's own scores (N,); nan where SPICE has none, and then the whole set
            has none either.
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
        """Return the content of scores.json: scores by name, counts, and other findings."""
        more = {
            "annotated": self.annotated if self.annotated > self.images else 0,
            "intervals": self.intervals,
            "health": self.health,
            "most frequent caption": self.most_frequent,
            "groups": [asdict(group) for group in self.groups],
            "comparison": self.comparison and asdict(self.comparison),
            "facts": self.facts,
        }
        return {
            **self.scores,
            "images": self.images,
            **{name: value for name, value in more.items() if value},
        }
