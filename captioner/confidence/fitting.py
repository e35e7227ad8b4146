"""Fit a confidence calibration to captions with known quality, and measure how good the fit is.

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

_RIDGE = 3.0  # a prior of standard deviation 0.6 on each standardized weight
_SEED = 0
_STEPS = 100  # of Newton's method, which needs about five
_PRECISION = 1e-10  # of a standardized weight
_CERTAIN = 1e-12
_DRAWS = 200

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def fit_logistic(signals: Floats, good: Bools, ridge: float = _RIDGE) -> tuple[float, Floats]:
    """Fit a logistic regression with a ridge penalty by Newton's method.

    It minimizes the negative log-likelihood plus ridge / 2 times the sum of the squared weights of
    the standardized signals; the bias is not penalized. The loss is strictly convex, so the minimum
    is unique.

    Args:
        signals: (M, F) of captions.
        good: (M,) whether each caption is good; both must occur.
        ridge: The penalty.

    Returns:
        The bias, and the weights (F,) of the unstandardized signals.
    """
    mean, scale = signals.mean(axis=0), signals.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs = np.column_stack([np.ones(len(signals)), (signals - mean) / scale])
    penalty = np.full(inputs.shape[1], ridge)
    penalty[0] = 0.0
    target = good.astype(np.float64)

    def loss(weights: Floats) -> float:
        logits = inputs @ weights
        likelihood = np.logaddexp(0, logits) - target * logits
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
    """Yield random folds of M photos: indices to fit to, and those held out; the seed is fixed."""
    order = np.random.default_rng(_SEED).permutation(count)
    for first in range(min(FOLDS, count)):
        left_out = np.sort(order[first::FOLDS])
        yield np.setdiff1d(order, left_out), left_out


def cross_validated(
    count: int, fit: Callable[[NDArray[np.intp]], Callable[[NDArray[np.intp]], Floats]]
) -> Floats:
    """Compute the probability of each of M photos by a fit that has not seen it.

    Args:
        count: M.
        fit: Fits to the photos with the given indices, and returns a function from indices to
            probabilities.

    Returns:
        (M,) probabilities.
    """
    probabilities = np.zeros(count)
    for kept, left_out in folds(count):
        probabilities[left_out] = fit(kept)(left_out)
    return probabilities


def cross_validated_logistic(signals: Floats, good: Bools) -> Floats:
    """Compute the probability of each caption (M,) by a regression fitted without it."""

    def fit(kept: NDArray[np.intp]) -> Callable[[NDArray[np.intp]], Floats]:
        bias, weights = fit_logistic(signals[kept], good[kept])
        return lambda rows: sigmoid(bias + signals[rows] @ weights)

    return cross_validated(len(good), fit)


@dataclass(frozen=True)
class Quality:
    """Quality measures of probabilities.

    Attributes:
        base_rate: The share of events that happened.
        log_loss: The mean negative log-likelihood.
        base_log_loss: The log loss of predicting the base rate for every event.
        auc: The area under the ROC curve: 0.5 by chance, 1 at best.
        reliability: The bins of the reliability diagram, and the expected calibration error.
        chance_error: The mean expected calibration error of as many perfectly calibrated
            probabilities, by simulation.
    """

    base_rate: float
    log_loss: float
    base_log_loss: float
    auc: float
    reliability: Reliability
    chance_error: float


def quality(probabilities: Floats, happened: Bools) -> Quality:
    """Measure the quality of M probabilities.

    Args:
        probabilities: (M,) the predicted probabilities.
        happened: (M,) whether each event happened; both outcomes must occur.
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
    """Compute the AUC from the ranks of events that happened; ties share their mean rank."""
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = int(happened.sum())
    above = ranks[happened].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(happened) - positive)))
