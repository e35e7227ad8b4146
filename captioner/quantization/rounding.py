"""Weights -> integers and scales that minimise the error of weights or of a layer's outputs."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 64  # weights of a matrix that share a scale
_SMALLEST = 1e-5  # minimum scale, for rows that are almost 0
_DAMPING = 0.01  # share of the mean diagonal, for inputs that are rare in calibration
_COLUMNS = 64  # columns whose errors are propagated to all later columns at once


def by_channel(weight: Floats, bits: int, gram: Floats | None = None) -> tuple[Floats, Floats]:
    """Round a weight (C, ...) with a scale for each output channel.

    Args:
        weight: The weight.
        bits: The number of bits of the integers, which are symmetric around 0.
        gram: As for `round_for_inputs`; None rounds each weight to the nearest integer.

    Returns:
        The integers in the weight's shape, and the scales (C,).
    """
    most = 2 ** (bits - 1) - 1
    rows = weight.reshape(len(weight), -1)
    steps, scale = least_error(rows, -most, most)
    if gram is not None:
        steps = round_for_inputs(rows, scale, -most, most, gram)
    return steps.reshape(weight.shape), scale[:, 0]


def by_block(matrix: Floats, bits: int, gram: Floats | None = None) -> tuple[Floats, Floats]:
    """Round a matrix with a scale for every `BLOCK` weights in memory order.

    Args:
        matrix: The matrix (outputs, inputs).
        bits: The number of bits of the integers.
        gram: As for `round_for_inputs`; None rounds each weight to the nearest integer.

    Returns:
        The integers (blocks, BLOCK), the last block padded with zeros, and the scales (blocks, 1).
    """
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    steps, scale = least_error(_blocks(matrix), least, most)
    if gram is not None:
        spread = np.repeat(scale[:, 0], BLOCK)[: matrix.size].reshape(matrix.shape)
        steps = _blocks(round_for_inputs(matrix, spread, least, most, gram))
    return steps, scale


def _blocks(matrix: Floats) -> Floats:
    return np.pad(matrix.ravel(), (0, -matrix.size % BLOCK)).reshape(-1, BLOCK)


def least_error(rows: Floats, least: int, most: int) -> tuple[Floats, Floats]:
    """Round rows to the nearest integers, with the scales that minimise the squared error.

    Args:
        rows: The rows (R, N).
        least: The smallest integer.
        most: The largest.

    Returns:
        The integers (R, N) and the scales (R, 1), which are exact in float16.
    """
    extreme = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / most, _SMALLEST)
    best = np.full((len(rows), 1), np.inf, np.float32)
    steps, scales = np.zeros_like(rows), extreme.astype(np.float32)
    for share in np.linspace(0.7, 1.05, 15, dtype=np.float32):
        scale = (extreme * share).astype(np.float16).astype(np.float32)
        scale = np.where(scale > 0, scale, extreme).astype(np.float32)
        rounded = np.clip(np.rint(rows / scale), least, most)
        error = np.square(rounded * scale - rows).sum(axis=1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, scale, scales)
        steps = np.where(better, rounded, steps)
    return steps, scales


def round_for_inputs(rows: Floats, scale: Floats, least: int, most: int, gram: Floats) -> Floats:
    """Round weights so that the products with a layer's inputs change little.

    Columns are rounded one after the other; the following weights compensate for the error so far,
    as far as their inputs are correlated (GPTQ: Frantar et al. 2023).

    Args:
        rows: The weights (outputs, inputs).
        scale: Their scales, (outputs, 1) or (outputs, inputs).
        least: The smallest integer.
        most: The largest.
        gram: (inputs, inputs) the mean of the outer products of the layer's inputs.

    Returns:
        The integers (outputs, inputs).
    """
    weights = rows.astype(np.float64)
    scales = np.broadcast_to(scale, weights.shape).astype(np.float64)
    count = weights.shape[1]
    damping = _DAMPING * max(float(np.trace(gram)) / count, 1e-12)
    inverse = np.linalg.inv(gram.astype(np.float64) + damping * np.eye(count))
    upper = np.linalg.cholesky(inverse).T
    steps = np.empty_like(weights)
    for start in range(0, count, _COLUMNS):
        end = min(start + _COLUMNS, count)
        errors = np.empty((len(weights), end - start))
        for j in range(start, end):
            steps[:, j] = np.clip(np.rint(weights[:, j] / scales[:, j]), least, most)
            error = (weights[:, j] - steps[:, j] * scales[:, j]) / upper[j, j]
            errors[:, j - start] = error
            weights[:, j + 1 : end] -= np.outer(error, upper[j, j + 1 : end])
        weights[:, end:] -= errors @ upper[start:end, end:]
    return steps.astype(np.float32)
