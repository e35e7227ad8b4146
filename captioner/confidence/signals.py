"""What a caption's confidence is computed from; all of it is there once the caption is.

    mean_log_prob     mean log-probability of its words
    least_log_prob    log-probability of its least probable word
    recognised        probability of the noun that the encoder's classifier finds likeliest
    named             the same where the caption names that noun, else 0

The length of the caption, how far its score is above the next one's and how many words the n best
captions share were tried and left out: they told nothing more (docs/confidence.md).

The last two signals need a model with a classifier. They are computed from the classifier's own
scores, before the temperature of the tags, so that a new temperature leaves a fitted confidence
valid.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from captioner.tags import TagConfig, Tagger
from captioner.tags.matching import NounMatcher

WORD_SIGNALS = ("mean_log_prob", "least_log_prob")
TAG_SIGNALS = ("recognised", "named")
SIGNALS = (*WORD_SIGNALS, *TAG_SIGNALS)


class SignalReader:
    """Reads the signals of captions.

    Args:
        tags: What the scores of the model's classifier stand for; None for a model without one.

    Attributes:
        names: The F signals that captions of this model have, in their order.
    """

    def __init__(self, tags: TagConfig | None) -> None:
        self.names = SIGNALS if tags is not None else WORD_SIGNALS
        self._table = None if tags is None else tags.table

    def read(
        self,
        texts: Sequence[str],
        word_log_probs: Sequence[Sequence[float]],
        classes: NDArray[np.floating] | None,
    ) -> NDArray[np.float64]:
        """Read the signals of a caption for each of B images.

        Args:
            texts: The captions.
            word_log_probs: For each caption the log-probability of each word; an empty caption has
                signals of 0.
            classes: (B, C) the scores of the classifier; ignored for a model without one.

        Returns:
            (B, F), in the order of `names`.
        """
        columns = [_word_signals(log_probs) for log_probs in word_log_probs]
        signals = np.array(columns, np.float64).reshape(len(texts), len(WORD_SIGNALS))
        if self._table is None:
            return signals
        if classes is None:
            raise ValueError("no scores of classes; expected those of the model's classifier")
        tagger, matcher = _matcher(self._table)
        nouns, recognised = tagger.best(classes)
        named = [matcher.names(text, int(noun)) for text, noun in zip(texts, nouns, strict=True)]
        return np.column_stack([signals, recognised, recognised * np.array(named, bool)])


def _word_signals(log_probs: Sequence[float]) -> tuple[float, float]:
    if not log_probs:
        return 0.0, 0.0
    return sum(log_probs) / len(log_probs), min(log_probs)


@cache
def _matcher(table: str) -> tuple[Tagger, NounMatcher]:
    tagger = TagConfig(table).tagger
    return tagger, NounMatcher(tagger.table)
