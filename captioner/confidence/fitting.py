"""Fits confidence to captions that are known to be good or not, and tells how good the fit is.

Quality is measured by cross-validation: each caption's probability comes from a regression that was
fitted without it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.confidence.config import sigmoid
from captioner.tags.calibration import Reliability, reliability

FOLDS = 10

_RIDGE = 3.0  # as if each standardized weight was known to be within about 0.6 of 0
_SEED = 0
_STEPS = 100  # of Newton's method, which takes about five
_PRECISION = 1e-10  # of a standardized weight
_CERTAIN = 1e-12
_DRAWS = 200

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def fit_logistic(signals: Floats, good: Bools, ridge: float = _RIDGE) -> tuple[float, Floats]:
    """Fit a logistic regression with a ridge penalty by Newton's method.

    It minimizes the negative log-likelihood plus ridge / 2 times the sum of the squared weights of
    the standardized signals; the bias is not penalized. That is strictly convex, so the minimum is
    the only one.

    Args:
        signals: (M, F) of captions.
        good: (M,) whether each caption is good; both must occur.
        ridge: The penalty.

    Returns:
        The bias, and the weights (F,) of the signals as they are given.
    """
    mean, scale = signals.mean(axis=0), signals.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs = np.column_stack([np.ones(len(signals)), (signals - mean) / scale])
    penalty = np.full(inputs.shape[1], ridge)
    penalty[0] = 0.0
    target = good.astype(np.float64)

    def loss(weights: Floats) -> float:
        log_odds = inputs @ weights
        likelihood = np.logaddexp(0, log_odds) - target * log_odds
        return float(likelihood.sum() + (penalty * weights**2).sum() / 2)

    weights = np.zeros(inputs.shape[1])
    share = target.mean()
    weights[0] = np.log(share / (1 - share))
    for _ in range(_STEPS):
        probability = sigmoid(inputs @ weights)
        gradient = inputs.T @ (probability - target) + penalty * weights
        curvature = (inputs.T * (probability * (1 - probability))) @ inputs + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > _PRECISION:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= _PRECISION:
            break
    own = weights[1:] / scale
    return float(weights[0] - own @ mean), own


def folds(count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Share out M photos by chance, always in the same way: those to fit to, and those left out."""
    order = np.random.default_rng(_SEED).permutation(count)
    for first in range(min(FOLDS, count)):
        left_out = np.sort(order[first::FOLDS])
        yield np.setdiff1d(order, left_out), left_out


def cross_validated(
    count: int, fit: Callable[[NDArray[np.intp]], Callable[[NDArray[np.intp]], Floats]]
) -> Floats:
    """Give each of M photos the probability of a fit that has not seen it.

    Args:
        count: M.
        fit: Fits to the photos of some numbers, and gives what turns numbers into probabilities.

    Returns:
        (M,) probabilities.
    """
    probabilities = np.zeros(count)
    for kept, left_out in folds(count):
        probabilities[left_out] = fit(kept)(left_out)
    return probabilities


def cross_validated_logistic(signals: Floats, good: Bools) -> Floats:
    """Give each caption (M,) the probability by a regression that was fitted without it."""

    def fit(kept: NDArray[np.intp]) -> Callable[[NDArray[np.intp]], Floats]:
        bias, weights = fit_logistic(signals[kept], good[kept])
        return lambda rows: sigmoid(bias + signals[rows] @ weights)

    return cross_validated(len(good), fit)


@dataclass(frozen=True)
class Quality:
    """How good probabilities are.

    Attributes:
        base_rate: The share that happened.
        log_loss: The mean negative log-likelihood.
        base_log_loss: The same if the base rate was said of each.
        auc: The probability that of one that happened and one that did not, the first has the
            higher probability; 0.5 by chance, 1 at best.
        reliability: Their bins, and the expected calibration error.
        chance_error: The expected calibration error that as many probabilities have on average if
            they are perfectly calibrated, by simulation.
    """

    base_rate: float
    log_loss: float
    base_log_loss: float
    auc: float
    reliability: Reliability
    chance_error: float


def quality(probabilities: Floats, happened: Bools) -> Quality:
    """Hold M probabilities against what happened, both of which must occur.

    Args:
        probabilities: (M,).
        happened: (M,).
    """
    draws = np.random.default_rng(_SEED).random((_DRAWS, len(happened))) < probabilities
    chance = [reliability(probabilities, drawn).error for drawn in draws]
    base = float(happened.mean())
    return Quality(
        base,
        _log_loss(probabilities, happened),
        _log_loss(np.full(len(happened), base), happened),
        _auc(probabilities, happened),
        reliability(probabilities, happened),
        float(np.mean(chance)),
    )


def _log_loss(probabilities: Floats, happened: Bools) -> float:
    sure = probabilities.clip(_CERTAIN, 1 - _CERTAIN)
    return float(-np.log(np.where(happened, sure, 1 - sure)).mean())


def _auc(probabilities: Floats, happened: Bools) -> float:
    """By the ranks of those that happened; equal ones share their ranks."""
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = int(happened.sum())
    above = ranks[happened].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(happened) - positive)))
