"""Calibrate the tags' probabilities: of the tags with 0.8, four of five are right.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks"): all logits are
divided by one number, fitted on validation photos. It changes the classifier's confidence, not the
order of its classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.tags.table import TagTable
from captioner.tags.tagger import Tagger, softmax

BINS = 10

_LEAST, _MOST = 0.05, 20.0
_PRECISION = 1e-9  # of the temperature's logarithm
_GRID = 121  # temperatures, evenly spaced in their logarithm: 5 % apart
_CERTAIN = 1e-12


@dataclass(frozen=True)
class Bin:
    """Tags of about the same probability.

    Attributes:
        low: The minimum probability of the bin.
        high: The minimum probability of the next bin; included only in the last bin.
        count: The number of tags in it.
        confidence: Their mean probability; NaN if empty.
        accuracy: The share of them that is right; NaN if empty.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How well probabilities agree with frequencies.

    Attributes:
        bins: In ascending order, all of the same width.
        error: The expected calibration error: the mean distance between confidence and accuracy
            of the bins, weighted by their counts.
    """

    bins: tuple[Bin, ...]
    error: float


def reliability(
    probabilities: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS
) -> Reliability:
    """Sort tags into bins by their probability.

    Args:
        probabilities: (M,) of tags, at least one.
        right: (M,) whether each is right.
        bins: The number of bins between 0 and 1.

    Returns:
        The data of a reliability diagram, and the expected calibration error.
    """
    values, hits = probabilities.astype(np.float64), right.astype(np.float64)
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, values, bins) / counts
        accuracy = np.bincount(places, hits, bins) / counts
    filled = counts > 0
    error = (counts[filled] * np.abs(confidence - accuracy)[filled]).sum() / counts.sum()
    rows = zip(counts.tolist(), confidence.tolist(), accuracy.tolist(), strict=True)
    return Reliability(
        tuple(Bin(place / bins, (place + 1) / bins, *row) for place, row in enumerate(rows)),
        float(error),
    )


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Fit a temperature to photos with known classes.

    It minimises the mean negative log-likelihood. That is convex in the inverse of the temperature,
    so the sign of its slope tells on which side the minimum lies.

    Args:
        logits: (B, C) of the classes.
        labels: (B,) the class of each photo.

    Returns:
        The temperature, between 0.05 and 20.
    """
    scores = logits.astype(np.float64)
    right = np.take_along_axis(scores, labels[:, None], 1).mean()

    def slope(temperature: float) -> float:
        return float(
            (softmax(scores / temperature) * scores).sum(1).mean() - right
        )  # by the inverse

    low, high = np.log(_LEAST), np.log(_MOST)
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def fit_tag_temperature(
    table: TagTable, logits: NDArray[np.floating], named: NDArray[np.bool_]
) -> float:
    """Fit a temperature to photos with captions but without class labels.

    A photo's most likely noun is right if a caption names it. The temperature minimises the
    negative log-likelihood of that: -log p where it is right, -log(1 - p) where it is not. The noun
    is always that at a temperature of 1: at a high temperature it becomes "dog" in every photo,
    because dogs have a tenth of ImageNet's classes, and doubting that would be rewarded.

    Args:
        table: The nouns of the classes.
        logits: (B, C) of the classes.
        named: (B, N) which nouns the captions of each photo name, by `NounMatcher`.

    Returns:
        The temperature, between 0.05 and 20.
    """
    nouns, _ = Tagger(table).best(logits)
    right = named[np.arange(len(nouns)), nouns]
    scores, classes = logits.astype(np.float64), table.own[:, nouns].T  # (B, C) both

    def loss(temperature: float) -> float:
        probability = (softmax(scores / temperature) * classes).sum(1).clip(_CERTAIN, 1 - _CERTAIN)
        return float(-np.log(np.where(right, probability, 1 - probability)).mean())

    coarse = np.geomspace(_LEAST, _MOST, _GRID)
    step = coarse[1] / coarse[0]
    best = _least(loss, coarse)
    return _least(loss, np.geomspace(max(_LEAST, best / step), min(_MOST, best * step), _GRID))


def _least(loss: Callable[[float], float], temperatures: NDArray[np.float64]) -> float:
    """Find the temperature with the lowest loss; the first of ties."""
    return float(
        temperatures[int(np.argmin([loss(float(temperature)) for temperature in temperatures]))]
    )
