import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from captioner.tags import Tagger, TagTable
from captioner.tags.calibration import fit_tag_temperature, fit_temperature, reliability


def draw(temperature: float, photos: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits overconfident by `temperature`, and classes drawn by the true probabilities."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, (photos, classes))
    labels = (scores + random.gumbel(size=scores.shape)).argmax(1)
    return scores * temperature, labels


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_is_that_of_the_least_negative_log_likelihood(true: float) -> None:
    logits, labels = draw(true, 2000, 12, seed=1)

    def loss(logarithm: float) -> float:
        return float(
            -log_softmax(logits / math.exp(logarithm), axis=1)[range(len(labels)), labels].mean()
        )

    expected = math.exp(
        minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x
    )
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(true, rel=0.1)


def test_the_temperature_is_lowest_if_always_right_and_highest_if_always_wrong() -> None:
    logits = np.eye(4, dtype=np.float32)
    assert fit_temperature(logits, np.arange(4)) == pytest.approx(0.05)
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == pytest.approx(20)


def test_the_temperature_of_tags_is_that_of_the_least_loss_of_their_being_right() -> None:
    table = TagTable(tuple("abcdef"), (("x",), ("x",), ("y",), ("z",), ("z",), ("z", "wide")))
    logits, labels = draw(2.0, 1500, 6, seed=2)
    named = table.members[labels] > 0

    noun = (np.exp(log_softmax(logits, axis=1)) @ table.own).argmax(1)

    def loss(logarithm: float) -> float:
        shares = np.exp(log_softmax(logits / math.exp(logarithm), axis=1)) @ table.own
        rows = np.arange(len(noun))
        return float(
            -np.log(np.where(named[rows, noun], shares[rows, noun], 1 - shares[rows, noun])).mean()
        )

    found = fit_tag_temperature(table, logits, named)
    assert loss(math.log(found)) <= min(loss(x) for x in np.linspace(-1, 3, 800)) + 1e-6
    assert found == pytest.approx(2, rel=0.15)
    nouns, probabilities = Tagger(table, found).best(logits)
    right = named[range(len(nouns)), nouns]
    assert (
        reliability(probabilities, right).error
        < 0.05
        < reliability(Tagger(table).best(logits)[1], right).error
    )


def test_a_noun_of_many_classes_does_not_take_over() -> None:
    """If the noun were chosen again, a high temperature would name x everywhere, and doubt it."""
    classes = [f"class {index}" for index in range(100)]
    table = TagTable(tuple(classes), (("x",),) * 10 + tuple((name,) for name in classes[10:]))
    random = np.random.default_rng(3)
    labels = random.integers(10, 100, 500)
    logits = random.normal(0, 1, (500, 100)) + 8 * np.eye(100)[labels]
    named = (table.members[labels] > 0) & (random.random((500, 1)) < 0.6)
    found = fit_tag_temperature(table, logits, named)
    assert (Tagger(table, found).best(logits)[0] > 0).mean() > 0.95


def test_reliability_by_hand() -> None:
    probabilities = np.array([0.1, 0.3, 0.6, 0.8, 1.0])
    right = np.array([False, True, True, False, True])
    found = reliability(probabilities, right, bins=2)
    low, high = found.bins
    assert (low.low, low.high, low.count, high.low, high.high, high.count) == (0, 0.5, 2, 0.5, 1, 3)
    assert (low.confidence, low.accuracy) == pytest.approx((0.2, 0.5))
    assert (high.confidence, high.accuracy) == pytest.approx((0.8, 2 / 3))
    assert found.error == pytest.approx((2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5)


def test_bins_without_tags_count_for_nothing() -> None:
    found = reliability(np.array([0.95]), np.array([True]))
    assert [row.count for row in found.bins] == [0] * 9 + [1]
    assert math.isnan(found.bins[0].confidence) and math.isnan(found.bins[0].accuracy)
    assert found.error == pytest.approx(0.05)
