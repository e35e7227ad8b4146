"""Drawing words at random: temperature, top-k and top-p for a whole batch at once."""

import numpy as np

from captioner.decoding.arrays import FloatArray, IntArray


def uniform_numbers(seed: int | None, images: IntArray, draws: int, steps: int) -> FloatArray:
    """Make the random numbers of all draws, from one generator per image.

    An image's numbers depend on the seed and its own index alone, and those of its first draw not
    on how many follow.

    Args:
        seed: None for fresh ones at every call.
        images: (B,) the images' indices, counted over everything that is captioned with this seed.
        draws: K, captions drawn per image.
        steps: T, words drawn per caption.

    Returns:
        (B, K, T), in [0, 1).
    """
    entropy = np.random.SeedSequence(seed).entropy
    numbers = np.empty((images.size, draws, steps))
    for own, image in zip(numbers, images.tolist(), strict=True):
        own[:] = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(image,))).random(
            own.shape
        )
    return numbers


def draw(
    log_probs: FloatArray, numbers: FloatArray, *, temperature: float, top_k: int, top_p: float
) -> IntArray:
    """Draw a word for each row by the inverse of its distribution function.

    Args:
        log_probs: (..., V), not necessarily normalised; -inf for words that are not allowed.
        numbers: (...) uniform in [0, 1).
        temperature: As in `DecodingOptions`.
        top_k: As in `DecodingOptions`.
        top_p: As in `DecodingOptions`.

    Returns:
        (...) word ids, 0 for a row without an allowed word.
    """
    below = np.cumsum(
        word_weights(log_probs, temperature=temperature, top_k=top_k, top_p=top_p), axis=-1
    )  # (..., V)
    # The first word whose share lies beyond the number, so that a word of weight 0 is never it.
    words: IntArray = np.argmax(below > numbers[..., None] * below[..., -1:], axis=-1)
    return words


def word_weights(
    log_probs: FloatArray, *, temperature: float, top_k: int, top_p: float
) -> FloatArray:
    """Turn log-probabilities into sampling weights, 0 for words outside top-k and top-p.

    Words of equal probability at the cut are kept in the order of their ids.

    Args:
        log_probs: (..., V), as for `draw`.
        temperature: As in `DecodingOptions`.
        top_k: As in `DecodingOptions`.
        top_p: As in `DecodingOptions`.

    Returns:
        (..., V), the largest of a row 1; all 0 in a row without an allowed word.
    """
    best = log_probs.max(axis=-1, keepdims=True)
    weights: FloatArray = np.exp((log_probs - np.where(best == -np.inf, 0, best)) / temperature)
    if not top_k and top_p == 1:
        return weights
    top = (
        weights
        if not 0 < top_k < weights.shape[-1]
        else np.partition(weights, -top_k, axis=-1)[..., -top_k:]
    )
    ranked = np.sort(top, axis=-1)[..., ::-1]
    mass = np.cumsum(ranked, axis=-1)
    count = 1 + (mass[..., :-1] < top_p * mass[..., -1:]).sum(
        axis=-1, keepdims=True
    )  # (..., 1) words to keep
    last = np.take_along_axis(ranked, count - 1, axis=-1)
    kept = weights >= last
    if (kept.sum(axis=-1, keepdims=True) > count).any():
        above, tied = weights > last, weights == last
        kept = above | (
            tied & (np.cumsum(tied, axis=-1) <= count - above.sum(axis=-1, keepdims=True))
        )
    return np.where(kept, weights, 0)
