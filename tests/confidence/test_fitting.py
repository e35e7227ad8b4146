import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import mannwhitneyu

from captioner.confidence.fitting import cross_validated_logistic, fit_logistic, folds, quality
from captioner.tags.calibration import reliability


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals of different scales, and what happened by a true regression on them."""
    random = np.random.default_rng(seed)
    signals = random.normal(0, 1, (count, 3)) * [1, 20, 0.1] + [0, 5, -3]
    log_odds = 0.3 + signals @ [1.0, -0.05, 4.0] + 12
    return signals, random.random(count) < expit(log_odds)


@pytest.mark.parametrize("ridge", [0.1, 3.0, 50.0])
def test_the_regression_has_the_least_penalized_loss(ridge: float) -> None:
    signals, good = draw(200, seed=1)
    standardized = (signals - signals.mean(0)) / signals.std(0)

    def loss(parameters: np.ndarray) -> float:
        log_odds = parameters[0] + standardized @ parameters[1:]
        signs = np.where(good, 1, -1)
        return float(
            np.log1p(np.exp(-signs * log_odds)).sum() + ridge / 2 * (parameters[1:] ** 2).sum()
        )

    expected = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    bias, weights = fit_logistic(signals, good, ridge)
    np.testing.assert_allclose(weights * signals.std(0), expected.x[1:], atol=1e-4)
    assert bias + signals.mean(0) @ weights == pytest.approx(expected.x[0], abs=1e-4)


def test_the_regression_finds_what_is_true() -> None:
    signals, good = draw(20_000, seed=2)
    bias, weights = fit_logistic(signals, good)
    np.testing.assert_allclose(weights, [1.0, -0.05, 4.0], rtol=0.1)
    assert bias == pytest.approx(12.3, rel=0.1)


def test_signals_that_separate_or_never_change_do_no_harm() -> None:
    good = np.arange(40) >= 20
    signals = np.column_stack([good * 1000.0, np.full(40, 7.0)])
    bias, weights = fit_logistic(signals, good)
    assert np.isfinite([bias, *weights]).all() and weights[1] == 0
    assert ((bias + signals @ weights > 0) == good).all()


def test_no_photo_is_seen_by_the_fit_that_judges_it() -> None:
    seen = np.zeros(53, int)
    for kept, left_out in folds(53):
        assert not set(kept) & set(left_out)
        assert len(kept) + len(left_out) == 53
        seen[left_out] += 1
    assert (seen == 1).all()
    signals = np.random.default_rng(3).normal(size=(300, 30))
    good = np.random.default_rng(4).random(300) < 0.5
    bias, weights = fit_logistic(signals, good)
    within = quality(expit(bias + signals @ weights), good)
    honest = quality(cross_validated_logistic(signals, good), good)
    assert within.log_loss < within.base_log_loss - 0.02, "it fits noise"
    assert honest.log_loss > honest.base_log_loss, "and is found out"


def test_quality_by_other_libraries() -> None:
    random = np.random.default_rng(5)
    probabilities = random.integers(1, 10, 400) / 10  # with ties
    happened = random.random(400) < probabilities
    found = quality(probabilities, happened)
    u = mannwhitneyu(probabilities[happened], probabilities[~happened]).statistic
    assert found.auc == pytest.approx(u / (happened.sum() * (~happened).sum()))
    p = np.where(happened, probabilities, 1 - probabilities)
    assert found.log_loss == pytest.approx(-np.log(p).mean())
    base = happened.mean()
    assert found.base_rate == base
    entropy = -base * np.log(base) - (1 - base) * np.log(1 - base)
    assert found.base_log_loss == pytest.approx(entropy)
    assert found.reliability.error == reliability(probabilities, happened).error
    assert found.reliability.error == pytest.approx(found.chance_error, abs=0.03)


def test_probabilities_that_are_off_have_a_larger_error_than_chance() -> None:
    happened = np.random.default_rng(6).random(1000) < 0.3
    assert quality(np.full(1000, 0.6), happened).reliability.error == pytest.approx(0.3, abs=0.05)
    assert quality(np.full(1000, 0.6), happened).chance_error < 0.03
