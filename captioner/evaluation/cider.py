"""CIDEr-D, as the official COCO scorer computes it; fast enough to be a training reward."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Generic, NamedTuple

import numpy as np
import numpy.typing as npt

from captioner.errors import DataError
from captioner.evaluation.corpus import Corpus, Id, Tokens, check_references, check_same_images
from captioner.evaluation.metric import Measured, Need

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ORDERS = 4  # n-grams of one to four words
_SIGMA = 6.0  # of the length penalty, in words
_LOW = (1 << 32) - 1  # two numbers below 2^31 make one key: high << 32 | low
_AT_ONCE = 1000  # captions; more at once gain nothing and take memory


class CiderDMetric:
    """CIDEr-D: the mean over images, whose document frequencies are those of the whole corpus."""

    names = ("CIDEr-D",)
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image."""
        return Measured.mean("CIDEr-D", cider_d(corpus.reference_tokens, corpus.caption_tokens)[1])


def cider_d(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, Floats]:
    """Compute CIDEr-D; `CiderD` is faster for scoring repeatedly against the same references.

    Returns:
        The corpus score and the images' scores (N,), in the order of `references`.
    """
    return CiderD(references).score(candidates)


class CiderD(Generic[Id]):
    """CIDEr-D (Vedantam et al., 2015) against references whose statistics are computed once.

    An n-gram (n = 1 to 4) weighs as often as it occurs in a caption times log(images / images with
    it in a reference). A caption and a reference are compared by the cosine of their weights, each
    clipped to the reference's, lowered by their difference in length; the score is the mean over n
    and over references, times 10. It depends on the set of images: for a single one every weight,
    and so the score, is 0.

    Args:
        references: One or more references for each image.

    Raises:
        DataError: There are no images, or one has no references.
    """

    def __init__(self, references: Mapping[Id, Sequence[Tokens]]) -> None:
        check_references(references)
        self._images = {image_id: row for row, image_id in enumerate(references)}
        self._texts = np.array([len(texts) for texts in references.values()])  # (N,)
        self._first = (
            np.cumsum(self._texts) - self._texts
        )  # (N,) of all references R, an image's first
        texts = list(chain.from_iterable(references.values()))
        self._numbers = _Numbers()
        bags = self._numbers.count(texts, learn=True)
        self._idf = self._inverse_document_frequencies(bags)
        self._weights = self._weigh(bags)
        self._norms, self._lengths = (
            _norms(bags, self._weights, len(texts)),
            _lengths(texts),
        )  # (R, 4), (R,)
        self._rows, self._ids = bags.rows.astype(np.int32), bags.ids.astype(np.int32)
        bounds = np.searchsorted(bags.rows, 4 * np.append(self._first, len(texts)))
        self._first_entry, self._entries = (
            bounds[:-1],
            np.diff(bounds),
        )  # (N,) of an image in the three arrays above

    def score(self, candidates: Mapping[Id, Tokens]) -> tuple[float, Floats]:
        """Scores one caption for each image of the references.

        Args:
            candidates: The caption to score for each image.

        Returns:
            The corpus score (the mean) and the images' scores (N,), in the order of the references.

        Raises:
            DataError: The captions are not of the same images as the references.
        """
        check_same_images(self._images, candidates)
        scores = self.score_each(
            list(self._images), [candidates[image_id] for image_id in self._images]
        )
        return float(scores.mean()), scores

    def score_each(self, image_ids: Sequence[Id], candidates: Sequence[Tokens]) -> Floats:
        """Scores captions of any of the images, several of an image too: a reward.

        Args:
            image_ids: The image of each caption, N of them, in any order and as often as wanted.
            candidates: The captions.

        Returns:
            Their scores (N,).

        Raises:
            DataError: An image has no references, or there are not as many captions as image ids.
        """
        if len(image_ids) != len(candidates):
            raise DataError(
                f"{len(candidates)} captions of {len(image_ids)} image ids; expected as many"
            )
        unknown = [image_id for image_id in image_ids if image_id not in self._images]
        if unknown:
            raise DataError(
                f"image {unknown[0]!r} has a caption but no references; score the images of the"
                " references"
            )
        images = np.array([self._images[image_id] for image_id in image_ids], dtype=np.int64)
        starts = range(0, len(images), _AT_ONCE)
        parts = [
            self._score(images[i : i + _AT_ONCE], candidates[i : i + _AT_ONCE]) for i in starts
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _score(self, images: Ints, candidates: Sequence[Tokens]) -> Floats:
        """The scores (N,) of captions whose images are given by number (N,)."""
        bags = self._numbers.count(candidates)
        weights = self._weigh(bags)
        # Every caption meets each reference of its image in a pair (P,), and each n-gram of these
        # in an entry (E,).
        texts, entries = self._texts[images], self._entries[images]  # (N,)
        first_pair = np.cumsum(texts) - texts  # (N,)
        caption = np.repeat(np.arange(len(images)), texts)  # (P,)
        reference = _ranges(self._first[images], texts)  # (P,)
        entry, entry_caption = (
            _ranges(self._first_entry[images], entries),
            np.repeat(np.arange(len(images)), entries),
        )
        rows = self._rows[entry]  # (E,)
        # Where the caption has the n-gram too.
        place, found = _look_up(bags.keys, _key(4 * entry_caption + rows % 4, self._ids[entry]))
        entry, entry_caption, rows, place = (
            entry[found],
            entry_caption[found],
            rows[found],
            place[found],
        )
        pair = first_pair[entry_caption] + rows // 4 - self._first[images][entry_caption]
        clipped = np.minimum(weights[place], self._weights[entry]) * self._weights[entry]
        overlap = np.bincount(4 * pair + rows % 4, clipped, 4 * len(caption)).reshape(
            -1, 4
        )  # (P, 4)
        norms = _norms(bags, weights, len(images))[caption] * self._norms[reference]  # (P, 4)
        cosines = np.divide(overlap, norms, out=np.zeros(norms.shape), where=norms > 0)
        difference = _lengths(candidates)[caption] - self._lengths[reference]
        similarity = cosines.mean(axis=1) * np.exp(-(difference**2) / (2 * _SIGMA**2))  # (P,)
        scores: Floats = 10 * np.bincount(caption, similarity, len(images)) / texts
        return scores

    def _inverse_document_frequencies(self, bags: "_Bags") -> Floats:
        """Return the IDF of each n-gram; after those of each n, that of unknown n-grams."""
        image = np.repeat(np.arange(len(self._texts)), self._texts)[bags.rows // 4]
        number = self._numbers.of_all_orders(bags)
        held = np.sort(_key(image, number))  # np.unique would take five times as long
        held = held[np.diff(held, prepend=-1) > 0] & _LOW  # once for each image
        images_with = np.bincount(held, minlength=self._numbers.known)
        return math.log(len(self._texts)) - np.log(np.maximum(1, images_with))

    def _weigh(self, bags: "_Bags") -> Floats:
        return bags.counts * self._idf[self._numbers.of_all_orders(bags)]


class _Bags(NamedTuple):
    """The distinct n-grams of captions with their counts, sorted by caption, n and n-gram."""

    keys: Ints  # 4 * caption + n - 1, and the number of the n-gram among those of n words
    counts: Ints

    @property
    def rows(self) -> Ints:
        return self.keys >> 32

    @property
    def ids(self) -> Ints:
        return self.keys & _LOW


class _WordNumbers(dict[str, int]):
    """Gives each new word the next id; three times as fast as a comprehension."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class _Numbers:
    """Maps n-grams to ids: an n-gram is the id of its first n - 1 words and that of its last."""

    def __init__(self) -> None:
        self._words = _WordNumbers()
        self._keys: list[
            Ints
        ] = []  # of two, three and four words, each sorted: an n-gram's number is its place
        self._first = np.zeros(
            _ORDERS, dtype=np.int64
        )  # where n begins when those of all n are numbered in one go
        self._known = np.zeros(_ORDERS, dtype=np.int64)  # how many of each n

    @property
    def known(self) -> int:
        """One more than the largest number that `of_all_orders` gives."""
        return int(self._first[-1] + self._known[-1] + 1)

    def of_all_orders(self, bags: _Bags) -> Ints:
        """Return global n-gram ids; unknown n-grams share one id for each n."""
        order = bags.rows % 4
        return self._first[order] + np.minimum(bags.ids, self._known[order])

    def count(self, captions: Sequence[Tokens], learn: bool = False) -> _Bags:
        """Count the n-grams of captions; new ones get new ids, kept only if `learn` is set."""
        number = (self._words if learn else _WordNumbers(self._words)).__getitem__
        words = np.fromiter(
            map(number, chain.from_iterable(captions)), dtype=np.int64
        )  # (M,), all in a row
        caption = np.repeat(np.arange(len(captions)), list(map(len, captions)))
        caption = np.append(caption, [-1] * _ORDERS)  # no n-gram runs over an end
        place, ids = np.arange(len(words)), words
        found = [_key(4 * caption[:-_ORDERS], ids)]
        for n in range(2, _ORDERS + 1):
            inside = caption[place + n - 1] == caption[place]
            place = place[inside]
            ids = self._number(n, _key(ids[inside], words[place + n - 1]), learn)
            found.append(_key(4 * caption[place] + n - 1, ids))
        if learn:
            self._known[:] = [len(self._words), *map(len, self._keys)]
            self._first[:] = np.cumsum(self._known + 1) - (self._known + 1)
        return _Bags(*np.unique(np.concatenate(found), return_counts=True))

    def _number(self, n: int, keys: Ints, learn: bool) -> Ints:
        if learn:
            known, numbers = np.unique(keys, return_inverse=True)
            self._keys.append(known)
            return numbers
        known = self._keys[n - 2]
        numbers, found = _look_up(known, keys)
        numbers[~found] = len(known) + np.unique(keys[~found], return_inverse=True)[1]
        return numbers


def _key(high: npt.NDArray[np.integer], low: npt.NDArray[np.integer]) -> Ints:
    return high.astype(np.int64) << 32 | low


def _look_up(sorted_keys: Ints, keys: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Where each key stands among sorted ones, and whether it does."""
    place = np.searchsorted(sorted_keys, keys)
    inside = place < len(sorted_keys)
    found = inside.copy()
    found[inside] = sorted_keys[place[inside]] == keys[inside]
    return place, found


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers of all ranges in a row: 7 8 3 4 5 from starts 7 3 and lengths 2 3."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _norms(bags: _Bags, weights: Floats, captions: int) -> Floats:
    """The norms (captions, 4) of the weights of each n."""
    return np.sqrt(np.bincount(bags.rows, weights**2, 4 * captions)).reshape(-1, 4)


def _lengths(captions: Sequence[Tokens]) -> Ints:
    """In bigrams."""
    return np.array([max(0, len(tokens) - 1) for tokens in captions], dtype=np.int64)
