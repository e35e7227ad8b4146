"""Find the words of a caption that come from the photo, and those from the language prior.

A decoder is a language model too: after "a man riding a" it says "wave" for most photos of the sea,
whether or not there is one. For each word this module computes the pointwise mutual information of
word and photo given the previous words,

    PMI = log p(word | photo, previous words) - log p(word | mean photo, previous words)

in nats. Above 0 the photo made the word more probable; near or below 0 the word is as probable
without the photo. A content word with low PMI is likely to be hallucinated.

The mean photo is an image of the mean colour: 0 in every pixel after preprocessing. Occlusion maps
hide patches with the same colour. It requires no data and works with every backend and checkpoint.
The mean of region features over a data set would be closer to real photos, but would have to be
stored in each checkpoint, and the decoder has never seen averaged features in training either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.caption import Caption
from captioner.decoding.scoring import log_probs_of_each
from captioner.errors import ConfigError
from captioner.inference import Captioner

THRESHOLD = 0.5
"""Nats; content words with less PMI are marked. See docs/how-to/explain.md for this choice."""

_FUNCTION_WORDS = """
a an the this that these those some any each every all both another other one its his her their
my your our it he she they them him i we you who which what there while as and or but so than if
of in on at to from by for with without into onto over under through across along around near
behind beside between above below up down off out is are was were be been being am has have had
do does did can could will would may 's 're n't not no very
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words, which depend on the words around them rather than on the photo. All other
words are content words."""


@dataclass(frozen=True)
class Evidence:
    """A caption with the visual evidence of each of its T words.

    Attributes:
        caption: The caption.
        pmi: (T,) the pointwise mutual information of each word and the photo, in nats.
        threshold: Content words with less PMI are marked.
    """

    caption: Caption
    pmi: tuple[float, ...]
    threshold: float = THRESHOLD

    @property
    def marked(self) -> tuple[bool, ...]:
        """Whether each word is a content word without visual evidence, (T,)."""
        return tuple(
            is_content(word) and pmi < self.threshold
            for word, pmi in zip(self.caption.words, self.pmi, strict=True)
        )

    @property
    def text(self) -> str:
        """The caption with marked words in square brackets: "a man on a [horse]"."""
        text, end = "", 0
        for word, marked in zip(self.caption.words, self.marked, strict=True):
            start = self.caption.text.index(word, end)
            text += self.caption.text[end:start] + (f"[{word}]" if marked else word)
            end = start + len(word)
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `captioner explain --evidence --json`, without the path."""
        rows = zip(
            self.caption.words, self.caption.word_log_probs, self.pmi, self.marked, strict=True
        )
        return {
            "caption": self.caption.text,
            "words": [
                {"word": word, "log_prob": log_prob, "pmi": pmi, "marked": marked}
                for word, log_prob, pmi, marked in rows
            ],
        }


def is_content(word: str) -> bool:
    """Return whether a word is a content word: not an English function word."""
    return word not in FUNCTION_WORDS


def find_evidence(
    captioner: Captioner,
    captions: Sequence[Caption],
    *,
    threshold: float = THRESHOLD,
    style: str | None = None,
) -> list[Evidence]:
    """Compute the visual evidence of each word of captions.

    All captions are scored in one pass, as captions of the mean photo, so only one image is
    encoded.

    Args:
        captioner: The model that wrote the captions.
        captions: The captions.
        threshold: Content words with less PMI, in nats, are marked.
        style: The style of the captions; the model's default if None.

    Returns:
        The evidence of each caption, in order.

    Raises:
        ConfigError: The model captions clips, or the threshold is not a number.
    """
    if captioner.frames:
        raise ConfigError(
            "Evidence is not supported for models of clips; choose a model of photos."
        )
    if math.isnan(threshold):
        raise ConfigError(
            "The threshold of evidence is NaN; expected a number of nats, such as 0.5."
        )
    if not captions:
        return []
    size = captioner.preprocessing.size
    mean_photo = captioner.backend.encode(np.zeros((1, 3, size, size), np.float32))
    ids = [[captioner.vocabulary.index(word) for word in caption.words] for caption in captions]
    start = captioner.vocabulary.start(captioner.decoding.style if style is None else style)
    habits = log_probs_of_each(mean_photo, ids, start)
    return [
        Evidence(caption, tuple((np.array(caption.word_log_probs) - habit).tolist()), threshold)
        for caption, habit in zip(captions, habits, strict=True)
    ]
