"""Constraints on captions: which words each beam may not take next."""

from collections.abc import Iterable, Sequence

import numpy as np

from captioner.decoding.arrays import BoolArray, IntArray
from captioner.decoding.inclusion import Inclusion, find_phrases
from captioner.decoding.options import DecodingOptions
from captioner.errors import ConfigError
from captioner.vocabulary import END, NEVER, PAD, START, UNKNOWN, Vocabulary


class Constraints:
    """The constraints on a caption, in word ids.

    `PAD`, `START` and `UNKNOWN` are never generated: the search itself excludes them.

    Args:
        vocab_size: V, the number of word ids.
        min_length: The minimum number of words in a caption.
        no_repeat_ngram: No n-gram of this many words occurs twice in a caption; 0 allows
            repetition.
        repeat_words: Whether a word may occur again. If not, those of `forbidden_endings` still may
            (without any, all words), but not directly after themselves.
        forbidden_endings: Ids of the words that a caption may not end with.
        inclusion: What a caption must contain; None if nothing.
        start: The id that captions begin with.
        other_starts: Further ids, besides `NEVER`, that are never generated: the start tokens of
            styles.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        min_length: int = 1,
        no_repeat_ngram: int = 0,
        repeat_words: bool = True,
        forbidden_endings: Iterable[int] = (),
        inclusion: Inclusion | None = None,
        start: int = START,
        other_starts: Iterable[int] = (),
    ) -> None:
        self.start = start
        self._other_starts: IntArray = np.array(sorted(other_starts), np.int64)
        self.vocab_size = vocab_size
        self.min_length = min_length
        self.no_repeat_ngram = no_repeat_ngram
        self.repeat_words = repeat_words
        self.inclusion = inclusion
        self._never_last: IntArray = np.array(sorted(forbidden_endings), np.int64)
        self._may_be_last: BoolArray = np.ones(vocab_size, np.bool_)  # (V,)
        self._may_be_last[self._never_last] = False

    @classmethod
    def from_options(
        cls,
        options: DecodingOptions,
        vocabulary: Vocabulary,
        include: Sequence[Iterable[str]] | None = None,
    ) -> "Constraints":
        """Translate the options into word ids; ignore endings outside the vocabulary.

        Args:
            options: The decoding options.
            vocabulary: The model's words.
            include: What the caption of each image must contain; None applies `options.include` to
                all of them.

        Raises:
            ConfigError: A word of `include` is not in the vocabulary, the words of `include` don't
                fit into a caption, or the style is unknown.
        """
        endings = {vocabulary.index(word) for word in options.forbidden_endings} - {
            END,
            UNKNOWN,
            PAD,
        }
        inclusion = None
        wanted = [options.include] if include is None else include
        if any(wanted):
            phrases = [find_phrases(each, vocabulary) for each in wanted]
            inclusion = Inclusion(len(vocabulary), phrases, endings)
            if inclusion.fewest > options.max_length:
                raise ConfigError(
                    f"A caption with all included words has at least {inclusion.fewest} words;"
                    f" max_length is {options.max_length}. Raise max_length, or include fewer"
                    " words."
                )
        return cls(
            len(vocabulary),
            min_length=options.min_length,
            no_repeat_ngram=options.no_repeat_ngram,
            repeat_words=options.repeat_words,
            forbidden_endings=endings,
            inclusion=inclusion,
            start=vocabulary.start(options.style),
            other_starts=vocabulary.never[len(NEVER) :],
        )

    def may_end(self, history: IntArray) -> BoolArray:
        """Determine for each beam whether `END` may be its next word.

        Args:
            history: (B, K, T) the words so far, without `START`.

        Returns:
            (B, K).
        """
        length = history.shape[-1]
        if length == 0 or length < self.min_length:
            return np.full(history.shape[:-1], length >= self.min_length)
        return self._may_be_last[history[..., -1]]

    def banned(self, history: IntArray, *, last: bool = False) -> IntArray:
        """Find the words that each beam may not take next: special, repeated, forbidden endings.

        Args:
            history: (B, K, T) the words so far, without `START`.
            last: Whether only one more word fits, so that it ends the caption.

        Returns:
            (B, K, M) word ids, where M is the largest number of any beam; shorter rows are padded
            with `PAD`.
        """
        repeating = self._repeating(history)
        always = np.concatenate(
            [self._other_starts, self._never_last if last else self._never_last[:0]]
        )
        if not always.size:
            return repeating
        return np.concatenate(
            [repeating, np.broadcast_to(always, (*history.shape[:-1], always.size))], axis=-1
        )

    def _repeating(self, history: IntArray) -> IntArray:
        """Return the words that would repeat an n-gram or a word, (B, K, M)."""
        repeating = self._repeating_ngrams(history)
        if self.repeat_words or not history.shape[-1]:
            return repeating
        parts = [repeating, history[..., -1:]]
        if self._never_last.size:
            earlier = history[..., :-1]
            parts.append(_without_gaps(earlier, self._may_be_last[earlier]))
        return np.concatenate(parts, axis=-1)

    def _repeating_ngrams(self, history: IntArray) -> IntArray:
        n, windows = self.no_repeat_ngram, history.shape[-1] - self.no_repeat_ngram + 1
        if n == 0 or windows < 1:
            return history[..., :0]
        # Compare the last n - 1 words with the first n - 1 words of every n-gram so far.
        repeats = np.ones((*history.shape[:-1], windows), np.bool_)
        for i in range(n - 1):
            repeats &= history[..., i : i + windows] == history[..., windows + i, None]
        return _without_gaps(history[..., n - 1 :], repeats)


def _without_gaps(words: IntArray, kept: BoolArray) -> IntArray:
    """Return the kept words of each row, padded to the largest number of any row."""
    most = kept.sum(axis=-1).max(initial=0)
    if not most:
        return words[..., :0]
    return np.sort(np.where(kept, words, PAD))[..., -most:]
