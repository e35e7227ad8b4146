"""Which words of a caption come from the photo, and which from habit.

A decoder is a language model too: after "a man riding a" it says "wave" for most photos of the sea,
seen or not. For each word this module computes the pointwise mutual information of word and photo
given the words before,

    PMI = log p(word | photo, words before) - log p(word | mean photo, words before)

in nats. Above 0 the photo made the word more probable; near or below 0 the model would have said
the word just as well without it. A content word of little PMI is likely to be hallucinated.

The mean photo is an image of the mean colour, 0 in every pixel after preprocessing. It is what
occlusion maps hide patches with, it needs no data, and every backend and every checkpoint has it.
The mean of region features over a data set would lie nearer to real photos, but would have to
travel with each checkpoint, and a blend of features is no photo that the decoder has seen either.
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

THRESHOLD = 1.5
"""Nats; content words of less PMI are marked. See docs/how-to/explain.md for its choice."""

_FUNCTION_WORDS = """
a an the this that these those some any each every all both another other one its his her their
my your our it he she they them him i we you who which what there while as and or but so than if
of in on at to from by for with without into onto over under through across along around near
behind beside between above below up down off out is are was were be been being am has have had
do does did can could will would may 's 're n't not no very
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that say little of what there is to see: they owe themselves to the words around
them. All other words are content words."""


@dataclass(frozen=True)
class Evidence:
    """A caption, and what the photo has to do with each of its T words.

    Attributes:
        caption: The caption.
        pmi: (T,) the pointwise mutual information of each word and the photo, in nats.
        threshold: Content words of less PMI are marked.
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
        """Give what `captioner explain --evidence --json` prints, but for the path."""
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
    """Say whether a word is no function word of English."""
    return word not in FUNCTION_WORDS


def find_evidence(
    captioner: Captioner,
    captions: Sequence[Caption],
    *,
    threshold: float = THRESHOLD,
    style: str | None = None,
) -> list[Evidence]:
    """Compare captions with what the model would say of the mean photo.

    All captions are scored at once, as so many captions of one image: one image is encoded, however
    many captions there are.

    Args:
        captioner: The model that wrote the captions.
        captions: The captions.
        threshold: Content words of less PMI, in nats, are marked.
        style: The style that they are written in; the model's default if None.

    Returns:
        The evidence of each caption, in their order.

    Raises:
        ConfigError: The threshold is no number.
    """
    if math.isnan(threshold):
        raise ConfigError("The threshold of evidence is no number; expected nats, such as 1.5.")
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
