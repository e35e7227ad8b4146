"""The interface of metrics: their names, requirements and results."""

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
    """The result of a metric on N images.

    Attributes:
        scores: The scores of the corpus, by published name; fractions (CIDEr-D: 0 to 10).
        per_image: The scores of each image (N,), by the same names; nan for an image without one.
        counts: The integer counts (N, C) of each image, for corpus scores that are computed from
            summed counts; None for scores that are means over images.
        from_counts: Computes the S scores (..., S), in the order of `scores`, from summed counts
            (..., C).
    """

    scores: dict[str, float]
    per_image: dict[str, Floats]
    counts: NDArray[np.int64] | None = None
    from_counts: Callable[[NDArray[np.int64]], Floats] | None = None

    @classmethod
    def mean(cls, name: str, per_image: Floats) -> "Measured":
        """Create the result of a metric whose corpus score is the mean over images.

        Args:
            name: The published name of the score.
            per_image: The score of each image (N,).
        """
        return cls({name: float(per_image.mean())}, {name: per_image})

    @property
    def summands(self) -> Floats:
        """Return what the bootstrap sums over images (N, C): counts, or the images' scores."""
        if self.counts is not None:
            return self.counts.astype(np.float64)
        return np.stack(list(self.per_image.values()), axis=1)

    def from_sums(self, sums: Floats, total_weights: Floats) -> dict[str, Floats]:
        """Compute corpus scores from weighted sums of `summands`.

        Means are shifted by the difference between the corpus score and the mean over images.
        METEOR's corpus score differs a little from its mean, as it is computed from statistics that
        are not available for single images.

        Args:
            sums: (R, C), one row for each weighting.
            total_weights: The sum of weights of each weighting (R,).

        Returns:
            (R,) by published name.
        """
        if self.from_counts is not None:
            return dict(
                zip(self.scores, self.from_counts(np.rint(sums).astype(np.int64)).T, strict=True)
            )
        return {
            name: total / total_weights + np.nan_to_num(self.scores[name] - values.mean())
            for (name, values), total in zip(self.per_image.items(), sums.T, strict=True)
        }


class Metric(Protocol):
    """A metric for captions; an entry of `captioner.evaluation.metrics.METRICS`.

    A metric that cannot be computed raises a `CaptionerError` that says what is missing. If it
    has `needs`, the command reports the error and continues with the other metrics.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The published names of its scores, in display order."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Its requirements besides captions and references: images, an instances file or Java."""

    def compute(self, corpus: Corpus) -> Measured:
        """Score a corpus; arrays are in the order of its references."""


def check_needs(metric: Metric, corpus: Corpus) -> None:
    """Check that a corpus has what a metric requires.

    Raises:
        ConfigError: The metric requires the objects in the images, but they are unknown.
        DataError: The metric requires images, but some have no file.
    """
    check_instances(metric, corpus.objects is not None)
    missing = [image_id for image_id in corpus.references if corpus.paths.get(image_id) is None]
    if "images" in metric.needs and missing:
        raise DataError(
            f"{metric.names[0]} requires the images, but {len(missing):,} of"
            f" {len(corpus.references):,} are missing, for example image {missing[0]!r}; give the"
            " folder that image paths are relative to (--images)"
        )


def check_instances(metric: Metric, given: bool) -> None:
    """Check that an instances file is given if a metric requires one.

    Raises:
        ConfigError: The metric requires an instances file, and none is given.
    """
    if "instances" in metric.needs and not given:
        raise ConfigError(
            f"{metric.names[0]} requires the objects in the images; give a COCO instances file"
            " (--instances)."
        )
