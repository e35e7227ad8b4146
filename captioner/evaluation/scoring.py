"""Tokens -> scores: of the whole corpus, of each image, and of the images weighed anew."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captioner.errors import CaptionerError, ConfigError
from captioner.evaluation import metrics as formulas
from captioner.evaluation.corpus import Tokens

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
# What `--metrics` calls them, and the published names of their scores, in the order in which they are shown.
METRICS = {"bleu": BLEU, "rouge": ("ROUGE-L",), "cider": ("CIDEr-D",), "meteor": ("METEOR",), "spice": ("SPICE",)}
DEFAULT_METRICS = ("bleu", "rouge", "cider")

Track: TypeAlias = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a corpus, and what they are made of.

    Attributes:
        scores: By published name; fractions, CIDEr-D 0 to 10.
        per_image: Each image's own scores (N,), by the same names.
        counts: What BLEU is computed from, (N, 10); see `captioner.evaluation.metrics.bleu_counts`. None without BLEU.
    """

    scores: dict[str, float]
    per_image: dict[str, NDArray[np.float64]]
    counts: NDArray[np.int64] | None

    def weighed(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The corpus scores if each image were there as often as a weight says.

        BLEU is computed from the weighed counts. All others are means over images, and CIDEr-D's keep the document
        frequencies of the whole corpus. METEOR's corpus score is made of statistics that are not known of single
        images, and differs a little from the mean; the means are moved by that difference.

        Args:
            weights: Whole numbers (R, N), one row for each way of weighing.

        Returns:
            (R,) by published name.
        """
        means = [name for name in self.scores if name not in BLEU]
        columns = [self.per_image[name] for name in means]
        if self.counts is not None:
            columns += list(self.counts.T.astype(np.float64))
        sums = weights @ np.stack(columns, axis=1) if columns else weights[:, :0]  # (R, all columns): one pass
        found = {}
        if self.counts is not None:
            counts = np.rint(sums[:, len(means) :]).astype(np.int64)  # (R, 10)
            found = dict(zip(BLEU, formulas.bleu_from_counts(counts).T, strict=True))
        images = weights.sum(axis=1)
        for name, total in zip(means, sums.T, strict=False):
            found[name] = total / images + (self.scores[name] - self.per_image[name].mean())
        return {name: found[name] for name in self.scores}


def check_metrics(names: Sequence[str]) -> None:
    """Makes sure that metrics are there.

    Raises:
        ConfigError: One is not, or none is named.
    """
    expected = f"expected some of {', '.join(METRICS)}"
    if not any(names):
        raise ConfigError(f"No metric is named; {expected}.")
    for name in names:
        if not name:
            raise ConfigError(f"A name is missing before or after a comma of the metrics; {expected}.")
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {expected}.")


def score_tokens(
    references: Mapping[Any, Sequence[Tokens]],
    candidates: Mapping[Any, Tokens],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    fail: Callable[[str], None] | None = None,
    track: Track | None = None,
) -> Scored:
    """Scores tokenised captions against tokenised references.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.
        metrics: Names of `METRICS`.
        fail: Is told why METEOR or SPICE cannot be computed here, and the others go on; without it, that is raised.
        track: Is given the metrics as they are computed and their number, and passes them on: a progress bar.

    Returns:
        The scores; arrays are in the order of `references`.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
        ConfigError: There is no such metric.
        CaptionerError: Something that a metric needs is missing.
    """
    check_metrics(metrics)
    scores: dict[str, float] = {}
    per_image: dict[str, NDArray[np.float64]] = {}
    counts = None
    chosen = [metric for metric in METRICS if metric in metrics]
    for metric in chosen if track is None else track(chosen, len(chosen)):
        if metric == "bleu":
            counts = formulas.bleu_counts(references, candidates)
            scores.update(zip(BLEU, formulas.bleu_from_counts(counts.sum(axis=0)).tolist(), strict=True))
            per_image.update(zip(BLEU, formulas.bleu_from_counts(counts).T, strict=True))
            continue
        try:
            value, values = _compute(metric, references, candidates)
        except CaptionerError as error:
            if fail is None or metric not in ("meteor", "spice"):
                raise
            fail(str(error))
            continue
        (name,) = METRICS[metric]
        scores[name], per_image[name] = value, values
    return Scored(scores, per_image, counts)


def _compute(
    metric: str, references: Mapping[Any, Sequence[Tokens]], candidates: Mapping[Any, Tokens]
) -> tuple[float, NDArray[np.float64]]:
    if metric == "rouge":
        return formulas.rouge_l(references, candidates)
    if metric == "cider":
        return formulas.cider_d(references, candidates)
    from captioner.evaluation import java

    return java.meteor(references, candidates) if metric == "meteor" else java.spice(references, candidates)
