"""Rounding: beside every choice of integers, and beside rounding to the nearest."""

from itertools import product

import numpy as np
import pytest

from captioner.quantization.rounding import BLOCK, by_block, by_channel, round_for_inputs


def correlated(samples: int, width: int) -> np.ndarray:
    random = np.random.default_rng(1)
    mixed = random.normal(size=(samples, 3)) @ random.normal(size=(3, width))
    return (mixed + 0.3 * random.normal(size=(samples, width))).astype(np.float32)


def gram_of(inputs: np.ndarray) -> np.ndarray:
    return inputs.T @ inputs / np.float32(len(inputs))


def output_error(weights: np.ndarray, rounded: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square(inputs @ (weights - rounded).T).sum())


def test_inputs_that_do_not_go_together_round_to_the_nearest() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 130)).astype(np.float32)
    scale = np.full((5, 1), 0.5, np.float32)
    steps = round_for_inputs(rows, scale, -3, 3, np.eye(130, dtype=np.float32))
    assert np.array_equal(steps, np.clip(np.rint(rows / 0.5), -3, 3))


def test_products_with_the_inputs_change_less() -> None:
    """On inputs that were not seen, too; half of the way to the best of all choices or more."""
    inputs = correlated(400, 6)
    rows = np.random.default_rng(2).normal(size=(20, 6)).astype(np.float32)
    scale = np.full((20, 1), 0.4, np.float32)
    nearest = np.rint(rows / scale)
    steps = round_for_inputs(rows, scale, -16, 15, gram_of(inputs[:200]))
    unseen = inputs[200:]
    error = output_error(rows, steps * scale, unseen)
    plain, best = output_error(rows, nearest * scale, unseen), 0.0
    for row, near in zip(rows, nearest, strict=True):
        choices = near + np.array(list(product((-1, 0, 1), repeat=6)), np.float32)
        best += np.square(unseen @ (row - choices * 0.4).T).sum(axis=0).min()
    assert error - best < 0.5 * (plain - best)
    assert error < 0.6 * plain


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_more_columns_than_are_rounded_at_once(bits: int) -> None:
    """Errors are passed on beyond a batch of columns, and blocks of scales don't follow rows."""
    inputs = correlated(1000, 150)
    matrix = np.random.default_rng(3).normal(size=(30, 150)).astype(np.float32)
    gram = gram_of(inputs)

    def block_error(given: np.ndarray | None) -> float:
        steps, scale = by_block(matrix, bits, given)
        assert steps.shape == (-(-matrix.size // BLOCK), BLOCK)
        assert steps.min() >= -(2 ** (bits - 1)) and steps.max() < 2 ** (bits - 1)
        rounded = (steps * scale).ravel()[: matrix.size].reshape(matrix.shape)
        return output_error(matrix, rounded, inputs)

    def channel_error(given: np.ndarray | None) -> float:
        steps, scale = by_channel(matrix[:, :, None, None], bits, given)
        assert np.abs(steps).max() < 2 ** (bits - 1)
        return output_error(matrix, steps[:, :, 0, 0] * scale[:, None], inputs)

    assert block_error(gram) < 0.5 * block_error(None)
    assert channel_error(gram) < 0.5 * channel_error(None)


def test_inputs_that_are_always_0_do_no_harm() -> None:
    inputs = correlated(50, 8)
    inputs[:, 3] = 0
    rows = np.random.default_rng(4).normal(size=(4, 8)).astype(np.float32)
    scale = np.full((4, 1), 0.1, np.float32)
    for gram in (gram_of(inputs), np.zeros((8, 8), np.float32)):
        steps = round_for_inputs(rows, scale, -31, 31, gram)
        assert np.abs(steps * scale - rows).max() < 1
