"""Score a corpus: as a whole, per image, and with weights on its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from captioner.errors import CaptionerError
from captioner.evaluation.callbacks import Callbacks
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.metric import Floats, Measured, check_needs
from captioner.evaluation.metrics import DEFAULT_METRICS, METRICS, check_metrics, find_metric


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of a corpus by several metrics.

    Attributes:
        measured: The result of each metric, by its name in `METRICS`.
    """

    measured: Mapping[str, Measured]

    @cached_property
    def scores(self) -> dict[str, float]:
        """The scores of the corpus by published name; fractions (CIDEr-D: 0 to 10)."""
        return {
            name: value for found in self.measured.values() for name, value in found.scores.items()
        }

    @cached_property
    def per_image(self) -> dict[str, Floats]:
        """The scores of each image (N,), by the same names."""
        return {
            name: values
            for found in self.measured.values()
            for name, values in found.per_image.items()
        }

    def weighed(self, weights: Floats) -> dict[str, Floats]:
        """Compute the corpus scores if each image occurred as often as its weight says.

        BLEU is computed from weighted counts. All others are weighted means over images; CIDEr-D
        keeps the document frequencies of the whole corpus.

        Args:
            weights: Integer weights (R, N), one row for each weighting.

        Returns:
            (R,) by published name; nan where an image with a weight has no score.
        """
        if not self.measured:
            return {}
        columns = [found.summands for found in self.measured.values()]  # (N, C) for each metric
        summands = np.concatenate(columns, axis=1)  # (N, all columns)
        unknown = np.isnan(summands)
        sums = weights @ np.where(unknown, 0, summands)  # (R, all columns)
        if unknown.any():
            sums[weights @ unknown > 0] = np.nan
        ends = np.cumsum([part.shape[1] for part in columns])
        total_weights = weights.sum(axis=1)
        scores: dict[str, Floats] = {}
        for found, part in zip(
            self.measured.values(), np.split(sums, ends[:-1], axis=1), strict=True
        ):
            scores |= found.from_sums(part, total_weights)
        return scores


def score_corpus(
    corpus: Corpus, metrics: Sequence[str] = DEFAULT_METRICS, callbacks: Callbacks | None = None
) -> Scored:
    """Score a corpus by several metrics.

    Args:
        corpus: The captions and references.
        metrics: Names of metrics in `METRICS`.
        callbacks: Called with progress and failures.

    Returns:
        The scores, in the order of `METRICS`; arrays are in the order of the references.

    Raises:
        ConfigError: A metric is unknown.
        CaptionerError: A requirement of a metric is missing.
    """
    check_metrics(metrics)
    callbacks = callbacks or Callbacks()
    measured: dict[str, Measured] = {}
    chosen = [name for name in METRICS if name in metrics]
    for name in callbacks.track(chosen, len(chosen)):
        metric = find_metric(name)
        try:
            check_needs(metric, corpus)
            found = metric.compute(corpus)
        except CaptionerError as error:
            if callbacks.fail is None or not metric.needs:
                raise
            callbacks.fail(str(error))
            continue
        assert tuple(found.scores) == tuple(found.per_image) == metric.names, (
            f"{name}: the scores differ from the metric's names"
        )
        measured[name] = found
    return Scored(measured)
