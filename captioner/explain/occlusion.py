"""Occlusion maps (Zeiler and Fergus 2014): hide patches, measure the drop in log-probability."""

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from captioner.backends.protocol import Backend
from captioner.decoding.arrays import FloatArray
from captioner.decoding.scoring import log_probs_of
from captioner.vocabulary import START

Float32Array = NDArray[np.float32]

_CELLS = 14  # per side of the map
_PATCH = 4  # cells per side of a hidden patch; single cells are too small to hide anything


def occlude(
    backend: Backend,
    pixels: Float32Array,
    words: Sequence[int],
    *,
    batch_size: int = 32,
    start: int = START,
    cells: int = _CELLS,
    patch: int = _PATCH,
) -> Float32Array:
    """Map each word of a caption by hiding patches.

    Patches of `patch` x `patch` cells are hidden one at a time, at all positions of a grid of
    `cells` x `cells`. A cell's value is the mean over all patches that hide it.

    Args:
        backend: The backend that runs the network.
        pixels: (3, S, S), preprocessed; patches are filled with 0, the mean colour of the encoder's
            data.
        words: The caption's T word ids, without `START`.
        batch_size: The largest batch of images to encode.
        start: The caption's start token.
        cells: Cells per side of the map.
        patch: Cells per side of a patch, at most `cells`.

    Returns:
        (T, cells, cells), the drop of the word's log-probability in nats; negative for a rise.
    """
    (whole,) = log_probs_hidden(
        backend, pixels, words, [np.zeros((cells, cells), np.bool_)], start=start
    )
    corners = [(top, left) for top in range(cells - patch + 1) for left in range(cells - patch + 1)]
    masks = np.zeros((len(corners), cells, cells), np.bool_)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + patch, left : left + patch] = True
    falls = whole - log_probs_hidden(
        backend, pixels, words, masks, batch_size=batch_size, start=start
    )  # (M, T)
    sums = np.einsum("mt,mhw->thw", falls, masks)
    maps: Float32Array = (sums / masks.sum(axis=0)).astype(np.float32)
    return maps


def log_probs_hidden(
    backend: Backend,
    pixels: Float32Array,
    words: Sequence[int],
    masks: Iterable[NDArray[np.bool_]],
    *,
    batch_size: int = 32,
    start: int = START,
) -> FloatArray:
    """Score a caption with parts of its image hidden.

    Args:
        backend: The backend that runs the network.
        pixels: (3, S, S), preprocessed.
        words: The caption's T word ids, without `START`.
        masks: M masks (h, w) of the cells to hide.
        batch_size: The largest batch of images to encode.
        start: The caption's start token.

    Returns:
        (M, T), the log-probability of each word given the previous words.
    """
    found = []
    hidden = (hide(pixels, mask) for mask in masks)
    while batch := list(islice(hidden, batch_size)):
        found += log_probs_of(backend.encode(np.stack(batch)), [words] * len(batch), start)
    return np.array(found).reshape(len(found), len(words))


def hide(pixels: Float32Array, mask: NDArray[np.bool_]) -> Float32Array:
    """Fill the masked cells (h, w) of an image (3, S, S) with 0, the mean colour."""
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(pixels.shape[1:], mask.shape, strict=True)
    )
    return np.where(mask[rows[:, None], columns], np.float32(0), pixels)
