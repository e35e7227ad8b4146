"""How sure a score is, and whether two systems differ: the bootstrap over images.

The images are drawn anew, with replacement, as many as there are, thousands of times; how the
scores vary from draw to draw says how much they owe to which images happen to be in the set (Efron
and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 6 and 13; Koehn 2004, "Statistical
Significance Tests for Machine Translation Evaluation"). BLEU is computed anew from the counts of
each draw. CIDEr-D keeps the document frequencies of the whole set.

What it does not know of: references by other people, another training run, photos of another kind.
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

_DRAWN_AT_ONCE = 2**22  # images, so that memory doesn't grow with resamples x images
_NO_MATCH = (
    2e-4  # the official formula's constants make BLEU up to 1e-15 ** (1 / 4) where it should be 0
)
_TIE = 1e-6  # a ten-thousandth of a point: those constants, and rounding


def resample(
    images: int, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[NDArray[np.float64]]:
    """Draws images with replacement, as many as there are, again and again.

    Args:
        images: How many there are, N.
        resamples: How often.
        seed: Makes it repeatable: the same draws for the same N.

    Yields:
        (R, N): how often each image was drawn, some of the resamples at a time.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = random.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=size * images)
            .reshape(size, images)
            .astype(np.float64)
        )


def bootstrap(
    systems: Sequence[Scored], images: int, resamples: int = RESAMPLES, seed: int = SEED
) -> list[dict[str, NDArray[np.float64]]]:
    """The scores of systems on the same draws of images.

    Args:
        systems: One or more, scored on the same images in the same order.
        images: How many images, N.
        resamples: How often they are drawn, R.
        seed: Makes it repeatable.

    Returns:
        For each system, its corpus scores (R,) by name; the r-th of all systems are of the same
        draw.
    """
    parts: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in systems]
    for weights in resample(images, resamples, seed):
        for system, blocks in zip(systems, parts, strict=True):
            blocks.append(system.weighed(weights))
    return [
        {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        for blocks in parts
    ]


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of bootstrapped scores (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (R,).
        level: The share of them that lies inside.

    Returns:
        Its ends.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: NDArray[np.float64], images: int) -> float:
    """How easily draws of images turn a difference around: two-sided, of the paired bootstrap.

    Twice the share of draws in which the difference is zero or has the other sign (Koehn 2004 has
    it one-sided). It is the level at which the percentile interval just reaches zero (Efron and
    Tibshirani 1993, chapter 15, on tests and intervals), so it is below 0.05 where the 95 %
    interval leaves out zero. One draw is added to both counts, so that a finite number of draws
    never claims 0 (Davison and Hinkley 1997, section 4.2).

    Draws of a few images are all alike, and would claim certainty from one. So it is never below 2
    / 2**N, the least
    that a sign test can give: that of a system which is better on every image.

    Args:
        differences: (R,) differences of two systems, each on one draw of images.
        images: How many images there are, N.

    Returns:
        The p-value; 1 for systems that don't differ, nan where a difference is.
    """
    if np.isnan(differences).any():
        return float("nan")
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * 0.5**images, 2 * (fewer + 1) / (len(differences) + 1)))


def compare(
    name: str,
    ours: Scored,
    theirs: Scored,
    drawn: Sequence[Mapping[str, NDArray[np.float64]]],
    *,
    missing: int = 0,
) -> Comparison:
    """Holds a system against another one, by the paired bootstrap.

    Args:
        name: What the other one is called.
        ours: The system.
        theirs: The other one, scored on the same images.
        drawn: What `bootstrap` gave for the two.
        missing: See `Comparison`.

    Returns:
        For each score that both have, the other's, ours less theirs, the interval of that and its
        p-value.
    """
    differences = {}
    for score in [score for score in ours.scores if score in theirs.scores]:
        other = theirs.scores[score]
        difference = float(_between(score, np.array(ours.scores[score]), np.array(other)))
        between = _between(score, drawn[0][score], drawn[1][score])  # (R,)
        images = len(ours.per_image[score])
        differences[score] = Difference(
            other, difference, interval(between), p_value(between, images)
        )
    return Comparison(name, differences, missing)


def _between(
    score: str, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ours minus theirs; differences within rounding count as 0, a tie."""
    if score in BLEU:
        ours, theirs = (np.where(values < _NO_MATCH, 0, values) for values in (ours, theirs))
    between = ours - theirs
    return np.where(np.abs(between) < _TIE, 0, between)
