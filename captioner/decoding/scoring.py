"""Log-probabilities of given captions by teacher forcing, on any backend."""

from collections.abc import Sequence

import numpy as np

from captioner.decoding.arrays import FloatArray
from captioner.decoding.search import Stepper
from captioner.vocabulary import START


def log_probs_of(
    stepper: Stepper, captions: Sequence[Sequence[int]], start: int = START
) -> list[FloatArray]:
    """Score a given caption of each image, word by word.

    Args:
        stepper: The encoded images, before their first step.
        captions: For each image the word ids of its caption, without `START`; a final `END` is
            scored like a word.
        start: The id that the captions begin with.

    Returns:
        For each image (T,): the natural logarithm of each word's probability given those before it.

    Raises:
        ValueError: The number of captions differs from the number of images.
    """
    if len(captions) != stepper.batch_size:
        raise ValueError(
            f"{len(captions)} captions for {stepper.batch_size} images; expected one for each"
        )
    lengths = np.array([len(caption) for caption in captions])
    found = [np.zeros(length) for length in lengths]
    images = np.arange(len(captions))  # those whose captions are still unfinished
    for t in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths[images] > t)
        images = images[rows]
        last = np.array(
            [captions[image][t - 1] if t else start for image in images.tolist()], np.int64
        )
        step = stepper.step(rows[:, None], last[:, None], 1, all_log_probs=True)
        assert step.all_log_probs is not None
        for image, log_probs in zip(images.tolist(), step.all_log_probs[:, 0], strict=True):
            found[image][t] = min(
                log_probs[captions[image][t]], 0.0
            )  # rounding may leave it slightly above 0
    return found


def log_probs_of_each(
    stepper: Stepper, captions: Sequence[Sequence[int]], start: int = START
) -> list[FloatArray]:
    """Score several given captions of one image, word by word.

    Args:
        stepper: The encoded image, before its first step.
        captions: The word ids of each caption, as for `log_probs_of`.
        start: The id that the captions begin with.

    Returns:
        For each caption (T,): the natural logarithm of each word's probability given those before
        it.

    Raises:
        ValueError: The stepper has more or fewer images than one.
    """
    if stepper.batch_size != 1:
        raise ValueError(f"{stepper.batch_size} images; expected one")
    lengths = np.array([len(caption) for caption in captions], np.int64)
    found = [np.zeros(length) for length in lengths]
    going = np.arange(len(captions))  # the captions that are still unfinished
    for t in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths[going] > t)
        going = going[rows]
        parents = rows if t else np.zeros_like(rows)  # there is one row before the first step
        last = np.array(
            [captions[number][t - 1] if t else start for number in going.tolist()], np.int64
        )
        step = stepper.step(parents[None], last[None], 1, all_log_probs=True)
        assert step.all_log_probs is not None
        for number, log_probs in zip(going.tolist(), step.all_log_probs[0], strict=True):
            found[number][t] = min(log_probs[captions[number][t]], 0.0)
    return found
