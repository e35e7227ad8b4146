"""Ensembles: a `Stepper` that averages the probabilities of several models."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from captioner.backends.protocol import Backend, Encoded
from captioner.checkpoint import Checkpoint
from captioner.decoding.search import Step
from captioner.errors import ConfigError
from captioner.tags import TagConfig


def combine(
    checkpoints: Sequence[Checkpoint], backends: Sequence[Backend]
) -> tuple["Ensemble", TagConfig | None]:
    """Combine models into an ensemble.

    Args:
        checkpoints: The models' checkpoints.
        backends: Their backends, in the same order.

    Returns:
        The ensemble, and its table of tags if a model has a classifier.

    Raises:
        ConfigError: Vocabularies, preprocessing, frames of clips or tables of tags differ.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for what in ("vocabulary", "preprocessing", "frames"):
            if getattr(first, what) != getattr(other, what):
                raise ConfigError(
                    f"{first.folder} and {other.folder} differ in their {what}; the models of an"
                    " ensemble must agree."
                )
    known = [each.tags for each in checkpoints if each.tags is not None]
    if any(each.table != known[0].table for each in known):
        raise ConfigError(
            "The models use different tables of tags; the models of an ensemble must agree."
        )
    temperatures = [None if each.tags is None else each.tags.temperature for each in checkpoints]
    return Ensemble(backends, temperatures), TagConfig(known[0].table) if known else None


class Ensemble:
    """Run several backends on the same images, and average their word probabilities.

    Args:
        backends: The models' backends, with the same vocabulary.
        temperatures: The temperature of each model's class logits. The ensemble's class logits
            yield the mean of the calibrated probabilities at a temperature of 1. None skips a
            model, such as one without a classifier; if all are skipped, there are no class logits.
    """

    name = "ensemble"

    def __init__(
        self, backends: Sequence[Backend], temperatures: Sequence[float | None] = ()
    ) -> None:
        self.backends = tuple(backends)
        self.temperatures = tuple(temperatures)

    def encode(self, pixels: NDArray[np.float32]) -> "EnsembleStepper":
        """Encode preprocessed images or clips with each model; return a stepper over them."""
        return EnsembleStepper(
            [backend.encode(pixels) for backend in self.backends], self.temperatures
        )


class EnsembleStepper:
    """Decode a batch of encoded images with several models; see `captioner.decoding.search`.

    Args:
        steppers: The models' steppers over the same images.
        temperatures: As for the ensemble.

    Attributes:
        classes: Log-probabilities of the classes, (B, C); None if no model has a classifier.
        pooled: The concatenated mean features of the models, each of unit length, (B, D).
        events: None; an ensemble recognises no events.
    """

    events: NDArray[np.float32] | None = None

    def __init__(
        self, steppers: Sequence[Encoded], temperatures: Sequence[float | None] = ()
    ) -> None:
        self.batch_size = steppers[0].batch_size
        self._steppers = steppers
        self._temperatures = temperatures
        self.pooled: NDArray[np.float32] = np.concatenate(
            [unit(stepper.pooled) for stepper in steppers], axis=1
        )
        scores = [
            stepper.classes / np.float32(temperature)
            for stepper, temperature in zip(steppers, temperatures, strict=bool(temperatures))
            if stepper.classes is not None and temperature is not None
        ]
        self.classes: NDArray[np.float32] | None = _mean_log_probs(scores) if scores else None

    def step(
        self,
        parents: NDArray[np.int64],
        words: NDArray[np.int64],
        k: int,
        *,
        all_log_probs: bool = False,
    ) -> Step:
        """Continue the previous rows `parents` (B, K) by `words` (B, K); see `Stepper.step`.

        The attention is the mean over the models, if all have the same number of regions.
        """
        steps = [stepper.step(parents, words, k, all_log_probs=True) for stepper in self._steppers]
        everything = np.stack(
            [step.all_log_probs for step in steps if step.all_log_probs is not None]
        )  # (M, B, K, V)
        log_probs = np.logaddexp.reduce(everything, axis=0) - np.float32(
            np.log(len(steps))
        )  # (B, K, V)
        best = np.sort(np.argpartition(-log_probs, k - 1, axis=2)[:, :, :k], axis=2)
        order = np.argsort(-np.take_along_axis(log_probs, best, axis=2), axis=2, kind="stable")
        best = np.take_along_axis(best, order, axis=2)  # best first, ties in the order of their ids
        maps = [step.attention for step in steps if step.attention is not None]
        together = len(maps) == len(steps) and len({each.shape for each in maps}) == 1
        return Step(
            words=best,
            log_probs=np.take_along_axis(log_probs, best, axis=2),
            attention=np.mean(maps, axis=0) if together else None,
            all_log_probs=log_probs if all_log_probs else None,
        )

    def again(self, images: NDArray[np.int64]) -> "EnsembleStepper":
        """Return a stepper before its first step over some of the images; see `Encoded.again`."""
        steppers = [stepper.again(images) for stepper in self._steppers]
        return EnsembleStepper(steppers, self._temperatures)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors (..., D) to unit length, for equal weights; leave zero vectors unchanged."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled


def _mean_log_probs(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute the logarithm of the mean of the softmax probabilities of logits (B, C)."""
    log_probs = [each - np.logaddexp.reduce(each, axis=1, keepdims=True) for each in scores]
    mean: NDArray[np.float32] = np.logaddexp.reduce(log_probs, axis=0) - np.float32(
        np.log(len(scores))
    )
    return mean
