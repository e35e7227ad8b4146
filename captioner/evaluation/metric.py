"""What a metric is: its names, what it needs, and how it scores a corpus."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captioner.errors import ConfigError, DataError
from captioner.evaluation.corpus import Corpus

Floats: TypeAlias = NDArray[np.float64]
Need: TypeAlias = Literal["images", "instances", "Java"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric finds.

    Attributes:
        scores: The scores of the corpus, by published name; fractions, CIDEr-D 0 to 10.
        per_image: Each image's own scores (N,), by the same names; nan for an image that has none.
        counts: For corpus scores that are no means over images: what they are computed from, whole
            numbers (N, C) of each image that are summed over images.
        from_counts: Computes the scores (..., S), in the order of `scores`, from sums of the counts
            (..., C).
    """

    scores: dict[str, float]
    per_image: dict[str, Floats]
    counts: NDArray[np.int64] | None = None
    from_counts: Callable[[NDArray[np.int64]], Floats] | None = None

    @classmethod
    def mean(cls, name: str, per_image: Floats) -> "Measured":
        """A single score whose value for the corpus is the mean over images.

        Args:
            name: Its published name.
            per_image: Each image's own score (N,).
        """
        return cls({name: float(per_image.mean())}, {name: per_image})

    @property
    def summands(self) -> Floats:
        """Return what the bootstrap sums over images (N, C): counts, or the images' scores."""
        if self.counts is not None:
            return self.counts.astype(np.float64)
        return np.stack(list(self.per_image.values()), axis=1)

    def from_sums(self, sums: Floats, images: Floats) -> dict[str, Floats]:
        """The corpus scores from weighed sums of `summands`.

        Means are moved by what the corpus score differs from the mean over images: METEOR's is made
        of statistics that are not known of single images, and differs a little.

        Args:
            sums: (R, C), one row for each way of weighing.
            images: The sum of the weights of each (R,).

        Returns:
            (R,) by published name.
        """
        if self.from_counts is not None:
            return dict(
                zip(self.scores, self.from_counts(np.rint(sums).astype(np.int64)).T, strict=True)
            )
        return {
            name: total / images + (self.scores[name] - values.mean())
            for (name, values), total in zip(self.per_image.items(), sums.T, strict=True)
        }


class Metric(Protocol):
    """Scores captions; an entry of `captioner.evaluation.metrics.METRICS`.

    A metric that cannot be computed raises a `CaptionerError` that says what is missing. If it
    needs anything beside texts, the command reports that and goes on with the other metrics.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The published names of its scores, in the order in which they are shown."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs beside captions and references: images, an instances file, or Java."""

    def compute(self, corpus: Corpus) -> Measured:
        """Score the captions of a corpus; all arrays are in the order of its references."""


def check_needs(metric: Metric, corpus: Corpus) -> None:
    """Refuse a corpus without what a metric looks at.

    Raises:
        ConfigError: The metric needs the objects in the images, and they are not known.
        DataError: The metric needs images, and some have no file.
    """
    check_instances(metric, corpus.objects is not None)
    missing = [image_id for image_id in corpus.references if corpus.paths.get(image_id) is None]
    if "images" in metric.needs and missing:
        raise DataError(
            f"{metric.names[0]} needs the images, and {len(missing):,} of"
            f" {len(corpus.references):,} are missing, image {missing[0]!r} for one; name the"
            " folder that image paths start from (--images)"
        )


def check_instances(metric: Metric, given: bool) -> None:
    """Refuse a metric that needs the objects in the images where no instances file is given.

    Raises:
        ConfigError: It does.
    """
    if "instances" in metric.needs and not given:
        raise ConfigError(
            f"{metric.names[0]} needs the objects in the images; name a COCO instances file"
            " (--instances)."
        )
