"""Confidence intervals of scores, and significance of differences, by the bootstrap over images.

The images are resampled with replacement thousands of times. How much the scores vary between
resamples shows how much they depend on the choice of images (Efron and Tibshirani 1993, "An
Introduction to the Bootstrap", chapters 6 and 13; Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation"). BLEU is computed from the counts of each resample. CIDEr-D keeps
the document frequencies of the whole set.

Not covered: variation between annotators, between training runs, and between kinds of photos.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from captioner.evaluation.bleu import BLEU
from captioner.evaluation.findings import Comparison, Difference
from captioner.evaluation.scoring import Scored

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0

_DRAWN_AT_ONCE = 2**22  # images per chunk, so that memory doesn't grow with resamples x images
_NO_MATCH = 2e-4  # the smoothing of BLEU gives up to 1e-15 ** (1 / 4) where the score should be 0
_TIE = 1e-6  # a ten-thousandth of a point: smoothing and rounding


def resample(
    n_images: int, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[NDArray[np.float64]]:
    """Draw bootstrap samples of images.

    Args:
        n_images: The number of images, N.
        resamples: The number of samples.
        seed: The random seed; the samples for the same N and seed are the same.

    Yields:
        (R, N) how often each image was drawn, for a chunk of the samples.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // n_images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = random.integers(0, n_images, (size, n_images)) + n_images * np.arange(size)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=size * n_images)
            .reshape(size, n_images)
            .astype(np.float64)
        )


def bootstrap(
    systems: Sequence[Scored], n_images: int, resamples: int = RESAMPLES, seed: int = SEED
) -> list[dict[str, NDArray[np.float64]]]:
    """Compute the scores of systems on the same bootstrap samples.

    Args:
        systems: One or more systems, scored on the same images in the same order.
        n_images: The number of images, N.
        resamples: The number of samples, R.
        seed: The random seed.

    Returns:
        For each system its corpus scores (R,) by name; the r-th scores of all systems are from the
        same sample.
    """
    parts: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in systems]
    for weights in resample(n_images, resamples, seed):
        for system, blocks in zip(systems, parts, strict=True):
            blocks.append(system.weighed(weights))
    return [
        {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        for blocks in parts
    ]


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """Compute the percentile interval of bootstrapped scores (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: Scores (R,).
        level: The confidence level, a fraction.

    Returns:
        The lower and the upper bound.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: NDArray[np.float64], n_images: int) -> float:
    """Compute the two-sided p-value of a difference by the paired bootstrap.

    It is twice the share of samples in which the difference is zero or has the other sign (Koehn
    2004 uses the one-sided version). At this level the percentile interval just reaches zero (Efron
    and Tibshirani 1993, chapter 15, on tests and intervals), so p < 0.05 if the 95 % interval
    excludes zero. One sample is added to both counts, so that p is never 0 (Davison and Hinkley
    1997, section 4.2).

    With few images all samples are similar, and a single image would give certainty. So p is at
    least 2 / 2**N, the smallest p-value of a sign test: that of a system that is better on every
    image.

    Args:
        differences: (R,) the difference of two systems in each sample.
        n_images: The number of images, N.

    Returns:
        The p-value; 1 for equal systems, nan if a difference is nan.
    """
    if np.isnan(differences).any():
        return float("nan")
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * 0.5**n_images, 2 * (fewer + 1) / (len(differences) + 1)))


def compare(
    name: str,
    ours: Scored,
    theirs: Scored,
    drawn: Sequence[Mapping[str, NDArray[np.float64]]],
    *,
    missing: int = 0,
) -> Comparison:
    """Compare two systems by the paired bootstrap.

    Args:
        name: The name of the other system.
        ours: The scores of the system.
        theirs: The scores of the other system on the same images.
        drawn: The result of `bootstrap` for the two.
        missing: See `Comparison`.

    Returns:
        For each score that both have: the other's score, ours minus theirs, the interval of the
        difference and its p-value.
    """
    differences = {}
    for score in [score for score in ours.scores if score in theirs.scores]:
        other = theirs.scores[score]
        difference = float(_between(score, np.array(ours.scores[score]), np.array(other)))
        between = _between(score, drawn[0][score], drawn[1][score])  # (R,)
        n_images = len(ours.per_image[score])
        differences[score] = Difference(
            other, difference, interval(between), p_value(between, n_images)
        )
    return Comparison(name, differences, missing)


def _between(
    score: str, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ours minus theirs; differences within rounding errors count as 0, a tie."""
    if score in BLEU:
        ours, theirs = (np.where(values < _NO_MATCH, 0, values) for values in (ours, theirs))
    between = ours - theirs
    return np.where(np.abs(between) < _TIE, 0, between)
