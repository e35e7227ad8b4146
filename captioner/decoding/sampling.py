"""Sample words at random: temperature, top-k and top-p for a whole batch at once."""

import numpy as np

from captioner.decoding.arrays import FloatArray, IntArray


def uniform_numbers(seed: int | None, images: IntArray, draws: int, steps: int) -> FloatArray:
    """Generate the random numbers of all draws, with one generator per image.

    An image's numbers depend only on the seed and its own index. Those of its first draw don't
    depend on the number of draws.

    Args:
        seed: The random seed; None draws fresh numbers at every call.
        images: (B,) the images' indices, counted over all images captioned with this seed.
        draws: K, the number of captions drawn per image.
        steps: T, the number of words drawn per caption.

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
    """Draw a word for each row by inverse transform sampling.

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
    # The first word whose cumulative share exceeds the number: never a word of weight 0.
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
        (..., V) weights; the largest of a row is 1; all are 0 in a row without an allowed word.
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
