"""Words and phrases that a caption must contain, evaluated for all beams at once.

A phrase is one word or several consecutive words, each in any of its forms. No state is kept
between steps: the progress of a beam with each phrase is derived from its words, so there is no
state to reorder with the beams.

The words of the phrases are candidates of every beam, however improbable they are (constrained beam
search, Anderson et al. 2017, "Guided Open Vocabulary Image Captioning with Constrained Beam
Search"). Beams compete only with beams that lack the same number of words, so that more probable
beams without "cat" don't crowd out one that has it. There is one bank for each number of missing
words, as in dynamic beam allocation (Post and Vilar 2018, "Fast Lexically Constrained Decoding with
Dynamic Beam Allocation for Neural Machine Translation"), but each bank is `beam_size` wide, as in
grid beam search (Hokamp and Liu 2017, "Lexically Constrained Decoding for Sequence Generation Using
Grid Beam Search"): captions are short and phrases few, and sharing one beam among the banks would
make captions worse. Within a bank, beams that can still fit all words in before `max_length` come
first, so there is always one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from captioner.decoding.arrays import BoolArray, Float32Array, FloatArray, IntArray
from captioner.decoding.forms import base, groups
from captioner.errors import ConfigError
from captioner.tokenizer import tokenize
from captioner.vocabulary import PAD, Vocabulary, is_special

Phrase: TypeAlias = tuple[frozenset[int], ...]


class Progress(NamedTuple):
    """The progress of beams with each phrase."""

    met: BoolArray  # (B, K, P) whether the phrase is there, or isn't required
    # (B, K, P, J) whether the last j words are the first j of the phrase, j from 0 on
    begun: BoolArray


class _Standing(NamedTuple):
    """The progress of candidates, of any shape."""

    met: BoolArray  # (..., P)
    begun: IntArray  # (..., P) the largest j


class Inclusion:
    """The phrases that captions must contain.

    Args:
        vocab_size: V, the number of word ids.
        phrases: The phrases of each image, or a single entry for all images. A phrase is, for each
            of its words, the ids of that word's forms; two such sets, of any phrases, are equal or
            have nothing in common.
        forbidden_endings: Ids of the words that a caption may not end with.
    """

    def __init__(
        self,
        vocab_size: int,
        phrases: Sequence[Iterable[Phrase]],
        forbidden_endings: Iterable[int] = (),
    ) -> None:
        wanted = [_without_parts(each) for each in phrases]
        self._phrases: list[Phrase] = list(
            dict.fromkeys(phrase for each in wanted for phrase in each)
        )
        self._asked = np.array(
            [[phrase in each for phrase in self._phrases] for each in wanted], np.bool_
        )  # (B, P)
        self._asked = self._asked.reshape(len(wanted), len(self._phrases))
        self._sizes: IntArray = np.array(
            [len(phrase) for phrase in self._phrases], np.int64
        )  # (P,)
        # Sets of forms are numbered from 1; 0 marks words of no phrase, -1 the padding after the
        # end of a phrase.
        numbers: dict[frozenset[int], int] = {}
        self._group: IntArray = np.zeros(vocab_size, np.int64)  # (V,)
        self._groups: IntArray = np.full(
            (len(self._phrases), self._sizes.max(initial=1)), -1
        )  # (P, J)
        self._never_last: BoolArray = np.zeros(vocab_size, np.bool_)  # (V,)
        self._never_last[list(forbidden_endings)] = True
        self._ends_well: BoolArray = np.zeros(
            len(self._phrases), np.bool_
        )  # (P,) in any of its forms
        for p, phrase in enumerate(self._phrases):
            for j, forms in enumerate(phrase):
                self._groups[p, j] = numbers.setdefault(forms, len(numbers) + 1)
                self._group[list(forms)] = self._groups[p, j]
            self._ends_well[p] = not self._never_last[list(phrase[-1])].all()
        self._words: IntArray = np.flatnonzero(self._group)  # (S,)
        # How many of a beam's most probable words may be listed separately, or come after others
        # in a bank.
        self.uncommon = self._words.size + int(self._never_last.sum())
        start = _Standing(~self._asked, np.zeros(self._asked.shape, np.int64))
        self.banks = int(self._lacking(start).max(initial=0)) + 1
        self.fewest = int(self._least(start, np.zeros(len(wanted), np.bool_)).max(initial=0))

    def asks(self, images: IntArray) -> BoolArray:
        """Determine for each of `images` (B,) whether its caption must contain anything."""
        return np.asarray(self._asked_of(images).any(axis=-1))

    def progress(self, history: IntArray, images: IntArray) -> Progress:
        """Compute the progress of each beam.

        Args:
            history: (B, K, T) the words so far, without `START`.
            images: (B,) the indices of the images.
        """
        groups, length = self._group[history], history.shape[-1]
        met = np.repeat(~self._asked_of(images)[:, None], history.shape[1], axis=1)
        begun = np.zeros((*met.shape, self._groups.shape[1]), np.bool_)
        begun[..., 0] = True
        for p, size in enumerate(self._sizes):
            for j in range(1, min(size, length + 1)):
                begun[..., p, j] = (groups[..., length - j :] == self._groups[p, :j]).all(axis=-1)
            if length >= size:
                windows = np.lib.stride_tricks.sliding_window_view(
                    groups, size, axis=-1
                )  # (B, K, T - n + 1, n)
                met[..., p] |= (windows == self._groups[p, :size]).all(axis=-1).any(axis=-1)
        return Progress(met, begun)

    def spared(self, banned: IntArray, history: IntArray, progress: Progress) -> IntArray:
        """Remove from `banned` (B, K, M) the words that begin or continue a phrase.

        Otherwise a phrase whose words were there before, apart from each other, could never be
        completed. A word that begins a phrase and is the last one stays banned.
        """
        needed = progress.begun & ~progress.met[..., None]  # (B, K, P, J)
        goes_on = needed[:, :, None] & (self._group[banned][..., None, None] == self._groups)
        if history.shape[-1]:
            goes_on[..., 0] &= (banned != history[..., -1:])[..., None]
        return np.where(goes_on.any(axis=(-1, -2)), PAD, banned)

    def offer(
        self, words: IntArray, log_probs: Float32Array, everything: Float32Array
    ) -> tuple[IntArray, Float32Array]:
        """Add the words of the phrases to the most probable words of each beam.

        Args:
            words: (B, K, k) the most probable words.
            log_probs: (B, K, k) their log-probabilities.
            everything: (B, K, V) the log-probabilities of all words.

        Returns:
            (B, K, k + S) words and log-probabilities, best first, ties in the order of their ids.
            Words that were among the most probable ones already occur twice, once with the
            log-probability -inf.
        """
        log_probs = np.where(np.isin(words, self._words), -np.inf, log_probs)
        words = np.concatenate(
            [words, np.broadcast_to(self._words, (*words.shape[:2], self._words.size))], axis=-1
        )
        log_probs = np.concatenate([log_probs, everything[..., self._words]], axis=-1)
        order = np.lexsort((words, -log_probs), axis=-1)
        return np.take_along_axis(words, order, axis=-1), np.take_along_axis(
            log_probs, order, axis=-1
        )

    def keep(
        self,
        candidates: FloatArray,
        words: IntArray,
        progress: Progress,
        *,
        beam_size: int,
        room: int,
    ) -> tuple[BoolArray, FloatArray]:
        """Choose the candidates to continue: the best of each bank.

        Args:
            candidates: (B, K, k) the log-probability of the caption up to each candidate, -inf if
                there is none.
            words: (B, K, k) the candidates' last words.
            progress: The progress of the beams without them.
            beam_size: The number of candidates to keep in each bank.
            room: How many more words a caption may have after these.

        Returns:
            Which candidates to keep (B, K, k), and the log-probability that END needs to be among
            those that lack nothing (B,).
        """
        shape = len(candidates), -1
        standing = self._advance(progress, words)
        lacking = self._lacking(standing).reshape(shape)
        late = self._least(standing, self._never_last[words]).reshape(shape) > room
        flat = candidates.reshape(shape)
        order = np.lexsort((-flat, late, lacking, flat == -np.inf), axis=-1)
        banks = np.take_along_axis(np.where(flat == -np.inf, self.banks, lacking), order, axis=-1)
        places = np.arange(flat.shape[1])
        first = np.maximum.accumulate(
            np.where(np.diff(banks, axis=1, prepend=-1) > 0, places, 0), axis=1
        )
        kept = np.zeros(flat.shape, np.bool_)
        np.put_along_axis(kept, order, (places - first < beam_size) & (banks < self.banks), axis=-1)
        lowest = np.full(len(flat), -np.inf)
        if flat.shape[1] >= beam_size:
            lowest = np.partition(np.where(lacking == 0, flat, -np.inf), -beam_size, axis=1)[
                :, -beam_size
            ]
        return kept.reshape(candidates.shape), lowest

    def _asked_of(self, images: IntArray) -> BoolArray:
        """Return which phrases are required (B, P); a single entry holds for all images."""
        return (
            self._asked[images]
            if len(self._asked) > 1
            else np.repeat(self._asked, len(images), axis=0)
        )

    def _advance(self, progress: Progress, words: IntArray) -> _Standing:
        """Return the progress of each candidate, with `words` (B, K, k) as the next words."""
        hits = progress.begun[:, :, None] & (
            self._group[words][..., None, None] == self._groups
        )  # (B, K, k, P, J)
        ends = np.arange(1, hits.shape[-1] + 1) == self._sizes[:, None]  # (P, J)
        met = progress.met[:, :, None] | (hits & ends).any(axis=-1)
        begun = ((hits & ~ends) * np.arange(1, hits.shape[-1] + 1)).max(axis=-1)
        return _Standing(met, begun)

    def _lacking(self, standing: _Standing) -> IntArray:
        """Count the missing words (...) of all phrases, minus the words of a phrase in progress."""
        open_ = ~standing.met
        lacking: IntArray = open_ @ self._sizes - (standing.begun * open_).max(axis=-1, initial=0)
        return lacking

    def _least(self, standing: _Standing, never_last: BoolArray) -> IntArray:
        """Return how many words suffice until END is allowed (...), ignoring bans on repetition.

        These are the missing words, and one more if a caption may not end with the last of them.
        For each state there is a word that lowers the number by one. `never_last` (...): whether a
        caption may not end with the last word so far.
        """
        open_ = ~standing.met
        count, well = (
            open_.sum(axis=-1)[..., None],
            (open_ & self._ends_well).sum(axis=-1)[..., None],
        )
        # If phrase p comes first, does a phrase with an allowed ending remain for the end?
        ends_well = (well > self._ends_well) | (self._ends_well & (count == 1))  # (..., P)
        more = np.where(open_, np.where(ends_well, 0, 1) - standing.begun, 1).min(
            axis=-1, initial=1
        )
        least: IntArray = np.where(open_.any(axis=-1), open_ @ self._sizes + more, never_last)
        return least


def find_phrases(include: Iterable[str], vocabulary: Vocabulary) -> list[Phrase]:
    """Look up the words and phrases that captions must contain.

    Args:
        include: Words, or phrases of consecutive words, in upper or lower case and any form: "cat"
            also matches cats.
        vocabulary: The model's words.

    Returns:
        For each phrase and each of its words, the ids of the word's forms.

    Raises:
        ConfigError: The vocabulary has no form of a word, or a phrase has no words.
    """
    forms = groups(vocabulary)
    phrases: list[Phrase] = []
    for text in include:
        words = tokenize(text)
        if not words:
            raise ConfigError(f"include has {text!r}; expected words, such as cat.")
        for word in words:
            if base(word) not in forms:
                raise ConfigError(f"{_unknown(word, vocabulary)} Include another word.")
        phrases.append(tuple(frozenset(forms[base(word)]) for word in words))
    return phrases


def can_include(text: str, vocabulary: Vocabulary) -> bool:
    """Return whether the vocabulary has a form of each word of a phrase, which `find_phrases` asks.

    Unlike the error of `find_phrases`, this doesn't look for similar words, which takes long.
    """
    words = tokenize(text)
    return bool(words) and all(base(word) in groups(vocabulary) for word in words)


def of_each_image(include: object, images: int | None) -> list[Any] | None:
    """Return `include` if it is a list of lists, one per image; else None.

    Args:
        include: The user's value.
        images: The number of images; None if unknown.

    Raises:
        ConfigError: The number of lists differs from the number of images.
    """
    if not isinstance(include, (list, tuple)) or not any(
        isinstance(each, (list, tuple)) for each in include
    ):
        return None
    if len(include) != images:
        number = "an unknown number of images" if images is None else f"{images} images"
        raise ConfigError(
            f"include has {len(include)} lists for {number}; expected a list of images and one list"
            " for each."
        )
    return list(include)


def _unknown(word: str, vocabulary: Vocabulary) -> str:
    from difflib import get_close_matches

    near = get_close_matches(
        word, [known for known in vocabulary.words if not is_special(known)], n=3, cutoff=0.6
    )
    nearest = (
        f"; the closest words that it knows: {', '.join(near)}."
        if near
        else " or any word with a similar spelling."
    )
    return f"The model doesn't know the word {word}{nearest}"


def _without_parts(phrases: Iterable[Phrase]) -> list[Phrase]:
    """Drop duplicate phrases and those inside another: "traffic light" contains "light"."""
    unique = list(dict.fromkeys(phrases))
    return [
        phrase
        for phrase in unique
        if not any(phrase != other and _is_in(phrase, other) for other in unique)
    ]


def _is_in(part: Phrase, whole: Phrase) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
