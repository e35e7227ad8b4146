import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.decoding.sampling import draw, uniform_numbers, word_weights

PROBABILITIES = st.lists(
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0]), min_size=1, max_size=8
).filter(any)


def logarithms(probabilities: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities) / sum(probabilities))


def kept_words(probabilities: list[float], top_k: int, top_p: float) -> set[int]:
    """Take the most probable words, ties by the lower id, until `top_k` words or mass `top_p`."""
    ranked = sorted(
        (i for i, p in enumerate(probabilities) if p > 0), key=lambda i: (-probabilities[i], i)
    )
    ranked = ranked[: top_k or None]
    total, kept, mass = sum(probabilities[i] for i in ranked), set(), 0.0
    for i in ranked:
        if mass >= top_p * total - 1e-9:
            break
        kept.add(i)
        mass += probabilities[i]
    return kept


# Never at a sum of probabilities exactly, where rounding would decide.
@settings(deadline=None)
@given(
    PROBABILITIES,
    st.integers(0, 9),
    st.sampled_from([1e-6, 0.123, 0.321, 0.4567, 0.777, 0.9191, 1.0]),
)
def test_support_is_exactly_the_most_probable_words(
    probabilities: list[float], top_k: int, top_p: float
) -> None:
    weights = word_weights(logarithms(probabilities), temperature=1.0, top_k=top_k, top_p=top_p)
    kept = kept_words(probabilities, top_k, top_p)
    assert set(np.flatnonzero(weights).tolist()) == kept
    expected = [p if i in kept else 0.0 for i, p in enumerate(probabilities)]
    np.testing.assert_allclose(
        weights / weights.sum(), np.array(expected) / sum(expected), rtol=1e-9
    )


def test_words_that_reach_the_probability_exactly_are_enough() -> None:
    weights = word_weights(logarithms([0.25, 0.5, 0.25]), temperature=1.0, top_k=0, top_p=0.5)
    assert weights.tolist() == [0, 1, 0]


def test_rows_are_filtered_independently() -> None:
    rows = np.stack([logarithms([0.7, 0.2, 0.1, 0.0]), logarithms([0.1, 0.2, 0.3, 0.4])])
    weights = word_weights(rows, temperature=1.0, top_k=0, top_p=0.6)
    assert (weights > 0).tolist() == [[True, False, False, False], [False, False, True, True]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_log_probabilities(temperature: float) -> None:
    probabilities = np.array([0.6, 0.3, 0.1])
    weights = word_weights(np.log(probabilities), temperature=temperature, top_k=0, top_p=1.0)
    powers = probabilities ** (1 / temperature)
    np.testing.assert_allclose(weights / weights.sum(), powers / powers.sum())


def test_draw_inverts_the_distribution_function() -> None:
    row = logarithms([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    numbers = np.array([0.0, 0.24, 0.26, 0.74, 0.76, np.nextafter(1, 0)])
    words = draw(np.tile(row, (6, 1)), numbers, temperature=1.0, top_k=0, top_p=1.0)
    assert words.tolist() == [1, 1, 3, 3, 4, 4]


def test_a_row_without_an_allowed_word_gives_word_zero() -> None:
    rows = np.array([[-np.inf, -np.inf], [-np.inf, 0.0]])
    for top_k, top_p in [(0, 1.0), (1, 1.0), (0, 0.5)]:
        assert draw(
            rows, np.array([0.9, 0.9]), temperature=0.1, top_k=top_k, top_p=top_p
        ).tolist() == [0, 1]


def test_numbers_depend_on_the_seed_and_the_image_alone() -> None:
    numbers = uniform_numbers(7, np.array([0, 1, 5]), 3, 4)
    assert numbers.shape == (3, 3, 4)
    np.testing.assert_array_equal(uniform_numbers(7, np.array([5]), 3, 4)[0], numbers[2])
    np.testing.assert_array_equal(uniform_numbers(7, np.array([1]), 1, 4)[0, 0], numbers[1, 0])
    assert len(np.unique(np.concatenate([numbers, uniform_numbers(8, np.arange(3), 3, 4)]))) == 72
    assert (
        uniform_numbers(None, np.arange(2), 1, 1) != uniform_numbers(None, np.arange(2), 1, 1)
    ).all()
