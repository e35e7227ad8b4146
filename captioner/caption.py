"""Captions of images and clips."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.decoding import Hypothesis
from captioner.tags import Tag
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True)
class Caption:
    """A caption of an image or clip; `str(caption)` is its text.

    Attributes:
        text: The sentence.
        words: The T words as generated: in lower case, contractions split.
        log_prob: The natural logarithm of the caption's probability.
        word_log_probs: (T,) the log-probability of each word given the previous words.
        attention: (T, h, w) the attention weights of each word; the grid covers the image as the
            encoder saw it, `preprocessing.fit(image)`. (T, F) for models of clips that attend to
            frames, (T, F, h, w) for those that attend to regions of frames. None for models without
            attention.
        alternatives: If several captions were requested, all of them, including this one, the best
            first; else empty.
        tags: What the encoder's classifier recognises in the image, most likely first, at most 5
            with a probability of at least 0.3; empty for models without a classifier.
        confidence: The calibrated probability, from 0 to 1, that the caption is good, as defined by
            the model's `Calibration.good`. None for models and styles without calibration, for
            ensembles, for captions that are sampled or must include words, and for alternatives
            other than the best.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    word_log_probs: tuple[float, ...]
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    alternatives: tuple["Caption", ...] = ()
    tags: tuple[Tag, ...] = ()
    confidence: float | None = None

    @classmethod
    def of(
        cls,
        hypothesis: Hypothesis,
        vocabulary: Vocabulary,
        tags: tuple[Tag, ...],
        confidence: float | None = None,
        frames: int = 0,
    ) -> "Caption":
        """Create a caption from a hypothesis.

        Args:
            hypothesis: A finished hypothesis of the search.
            vocabulary: The model's vocabulary.
            tags: The tags of the image.
            confidence: The probability that the caption is good.
            frames: The number of frames that a model of clips sees; 0 for a model of photos.
        """
        weights = hypothesis.attention
        return cls(
            text=vocabulary.text(hypothesis.words),
            words=tuple(vocabulary.decode(hypothesis.words)),
            log_prob=hypothesis.log_prob,
            word_log_probs=hypothesis.word_log_probs,
            attention=None if weights is None else _over(weights, frames),
            tags=tags,
            confidence=confidence,
        )

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `captioner caption --json`, without the path."""
        alternatives = [
            {"caption": other.text, "log_prob": other.log_prob} for other in self.alternatives
        ]
        tags = [tag.to_dict() for tag in self.tags]
        return {
            "caption": self.text,
            "log_prob": self.log_prob,
            "confidence": self.confidence,
            "alternatives": alternatives,
            "tags": tags,
        }


def _over(attention: NDArray[np.float32], frames: int) -> NDArray[np.float32] | None:
    """Reshape attention (T, L) to the grid of an image, or to the frames of a clip."""
    if not frames:
        return _grid(attention)
    if attention.shape[1] == frames:
        return attention
    if attention.shape[1] % frames:  # a clip as a whole
        return None
    words, regions = len(attention), attention.shape[1] // frames
    over = _grid(attention.reshape(words * frames, regions))
    return over.reshape(words, frames, *over.shape[1:])


def _grid(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reshape (T, L) to (T, h, w); the grid of an encoder is square."""
    side = math.isqrt(attention.shape[1])
    return attention.reshape(-1, side, side)
