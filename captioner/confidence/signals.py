"""The signals that confidence is computed from. They cost nothing beyond captioning.

    mean_log_prob     mean log-probability of the caption's words
    least_log_prob    log-probability of its least probable word
    recognised        probability of the most probable noun by the encoder's classifier
    named             the same if the caption names that noun, else 0

The caption's length, its score's margin to the next caption and the words that the n best captions
share were tried too, without benefit (docs/confidence.md).

The last two signals require a model with a classifier. They are computed from its logits without
the temperature of the tags, so a fitted confidence remains valid if the temperature changes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from captioner.tags import TagConfig
from captioner.tags.matching import noun_matcher

WORD_SIGNALS = ("mean_log_prob", "least_log_prob")
TAG_SIGNALS = ("recognised", "named")
SIGNALS = (*WORD_SIGNALS, *TAG_SIGNALS)


class SignalReader:
    """Computes the signals of captions.

    Args:
        tags: The meaning of the classifier's logits; None for a model without a classifier.

    Attributes:
        names: The names of the F signals of this model, in order.
    """

    def __init__(self, tags: TagConfig | None) -> None:
        self.names = SIGNALS if tags is not None else WORD_SIGNALS
        self._tagger = None if tags is None else replace(tags, temperature=1.0).tagger

    def read(
        self,
        texts: Sequence[str],
        word_log_probs: Sequence[Sequence[float]],
        classes: NDArray[np.floating] | None,
    ) -> NDArray[np.float64]:
        """Compute the signals of a caption for each of B images.

        Args:
            texts: The captions.
            word_log_probs: The log-probabilities of each caption's words; the signals of an empty
                caption are 0.
            classes: (B, C) the logits of the classifier; ignored for a model without one.

        Returns:
            (B, F), in the order of `names`.
        """
        columns = [_word_signals(log_probs) for log_probs in word_log_probs]
        signals = np.array(columns, np.float64).reshape(len(texts), len(WORD_SIGNALS))
        if self._tagger is None:
            return signals
        if classes is None:
            raise ValueError("no class logits given; expected those of the model's classifier")
        matcher = noun_matcher(self._tagger.table)
        nouns, recognised = self._tagger.best(classes)
        named = [matcher.names(text, int(noun)) for text, noun in zip(texts, nouns, strict=True)]
        return np.column_stack([signals, recognised, recognised * np.array(named, bool)])


def _word_signals(log_probs: Sequence[float]) -> tuple[float, float]:
    if not log_probs:
        return 0.0, 0.0
    return sum(log_probs) / len(log_probs), min(log_probs)
