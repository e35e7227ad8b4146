"""CIDEr-D as in the official COCO scorer, fast enough to be a training reward."""

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
_LOW = (1 << 32) - 1  # two numbers below 2^31 are packed into one key: high << 32 | low
_AT_ONCE = 1000  # captions per chunk; larger chunks need more memory and are not faster


class CiderDMetric:
    """CIDEr-D: the mean over images, with document frequencies of the whole corpus."""

    names = ("CIDEr-D",)
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image."""
        return Measured.mean("CIDEr-D", cider_d(corpus.reference_tokens, corpus.caption_tokens)[1])


def cider_d(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, Floats]:
    """Compute CIDEr-D; `CiderD` is faster for scoring repeatedly against the same references.

    Args:
        references: One or more tokenised references for each image.
        candidates: The tokenised caption to score for each image.

    Returns:
        The corpus score and the images' scores (N,), in the order of `references`.
    """
    return CiderD(references).score(candidates)


class CiderD(Generic[Id]):
    """CIDEr-D (Vedantam et al., 2015) against fixed references, whose statistics are cached.

    The weight of an n-gram (n = 1 to 4) in a caption is its count times log(number of images /
    number of images with it in a reference). A caption and a reference are compared by the cosine
    similarity of their weights, with the caption's weights clipped to the reference's and a penalty
    for their difference in length. The score is the mean over n and references, times 10. It
    depends on the set of images: for a single image all weights are 0, and so is the score.

    Args:
        references: One or more references for each image.

    Raises:
        DataError: There are no images, or one has no references.
    """

    def __init__(self, references: Mapping[Id, Sequence[Tokens]]) -> None:
        check_references(references)
        self._rows_by_id = {image_id: row for row, image_id in enumerate(references)}
        self._texts = np.array([len(texts) for texts in references.values()])  # (N,)
        self._first = (
            np.cumsum(self._texts) - self._texts
        )  # (N,) each image's first of all R references
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
        )  # (N,) each image's first entry of the three arrays above

    def score(self, candidates: Mapping[Id, Tokens]) -> tuple[float, Floats]:
        """Score one caption for each image of the references.

        Args:
            candidates: The caption to score for each image.

        Returns:
            The corpus score (the mean) and the images' scores (N,), in the order of the references.

        Raises:
            DataError: The captions' images differ from those of the references.
        """
        check_same_images(self._rows_by_id, candidates)
        scores = self.score_each(
            list(self._rows_by_id), [candidates[image_id] for image_id in self._rows_by_id]
        )
        return float(scores.mean()), scores

    def score_each(self, image_ids: Sequence[Id], candidates: Sequence[Tokens]) -> Floats:
        """Score any number of captions of any of the images, as a training reward.

        Args:
            image_ids: The image of each of N captions, in any order, with repetitions.
            candidates: The captions.

        Returns:
            Their scores (N,).

        Raises:
            DataError: An image has no references, or the numbers of captions and image ids differ.
        """
        if len(image_ids) != len(candidates):
            raise DataError(
                f"got {len(candidates)} captions and {len(image_ids)} image ids; expected one image"
                " id per caption"
            )
        unknown = [image_id for image_id in image_ids if image_id not in self._rows_by_id]
        if unknown:
            raise DataError(
                f"image {unknown[0]!r} has a caption but no references; score only images with"
                " references"
            )
        image_rows = np.array(
            [self._rows_by_id[image_id] for image_id in image_ids], dtype=np.int64
        )
        starts = range(0, len(image_rows), _AT_ONCE)
        parts = [
            self._score(image_rows[i : i + _AT_ONCE], candidates[i : i + _AT_ONCE]) for i in starts
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _score(self, image_rows: Ints, candidates: Sequence[Tokens]) -> Floats:
        """Score captions (N,), given the index of each one's image (N,)."""
        bags = self._numbers.count(candidates)
        weights = self._weigh(bags)
        # P pairs of a caption and a reference of its image; E entries, one per n-gram of each
        # pair's reference.
        texts, entries = self._texts[image_rows], self._entries[image_rows]  # (N,)
        first_pair = np.cumsum(texts) - texts  # (N,)
        caption = np.repeat(np.arange(len(image_rows)), texts)  # (P,)
        reference = _ranges(self._first[image_rows], texts)  # (P,)
        entry, entry_caption = (
            _ranges(self._first_entry[image_rows], entries),
            np.repeat(np.arange(len(image_rows)), entries),
        )
        rows = self._rows[entry]  # (E,)
        # Keep n-grams that the caption has too.
        place, found = _look_up(bags.keys, _key(4 * entry_caption + rows % 4, self._ids[entry]))
        entry, entry_caption, rows, place = (
            entry[found],
            entry_caption[found],
            rows[found],
            place[found],
        )
        pair = first_pair[entry_caption] + rows // 4 - self._first[image_rows][entry_caption]
        clipped = np.minimum(weights[place], self._weights[entry]) * self._weights[entry]
        overlap = np.bincount(4 * pair + rows % 4, clipped, 4 * len(caption)).reshape(
            -1, 4
        )  # (P, 4)
        norms = _norms(bags, weights, len(image_rows))[caption] * self._norms[reference]  # (P, 4)
        cosines = np.divide(overlap, norms, out=np.zeros(norms.shape), where=norms > 0)
        difference = _lengths(candidates)[caption] - self._lengths[reference]
        similarity = cosines.mean(axis=1) * np.exp(-(difference**2) / (2 * _SIGMA**2))  # (P,)
        scores: Floats = 10 * np.bincount(caption, similarity, len(image_rows)) / texts
        return scores

    def _inverse_document_frequencies(self, bags: "_Bags") -> Floats:
        """Return the IDF of each n-gram; after those of each n, that of unknown n-grams."""
        image = np.repeat(np.arange(len(self._texts)), self._texts)[bags.rows // 4]
        number = self._numbers.of_all_orders(bags)
        held = np.sort(_key(image, number))  # np.unique is five times slower
        held = held[np.diff(held, prepend=-1) > 0] & _LOW  # once for each image
        images_with = np.bincount(held, minlength=self._numbers.known)
        return math.log(len(self._texts)) - np.log(np.maximum(1, images_with))

    def _weigh(self, bags: "_Bags") -> Floats:
        return bags.counts * self._idf[self._numbers.of_all_orders(bags)]


class _Bags(NamedTuple):
    """The distinct n-grams of captions with their counts, sorted by caption, n and n-gram."""

    keys: Ints  # 4 * caption + n - 1, packed with the n-gram's id among those of n words
    counts: Ints

    @property
    def rows(self) -> Ints:
        return self.keys >> 32

    @property
    def ids(self) -> Ints:
        return self.keys & _LOW


class _WordNumbers(dict[str, int]):
    """Assigns the next id to each new word; three times as fast as a comprehension."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class _Numbers:
    """Maps n-grams to ids: an n-gram is the id of its first n - 1 words and that of its last."""

    def __init__(self) -> None:
        self._words = _WordNumbers()
        self._keys: list[
            Ints
        ] = []  # the sorted keys of 2-, 3- and 4-grams; an n-gram's id is its position
        self._first = np.zeros(_ORDERS, dtype=np.int64)  # the first global id for each n
        self._known = np.zeros(_ORDERS, dtype=np.int64)  # the number of n-grams for each n

    @property
    def known(self) -> int:
        """One more than the largest id of `of_all_orders`."""
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
        )  # (M,), all captions concatenated
        caption = np.repeat(np.arange(len(captions)), list(map(len, captions)))
        caption = np.append(caption, [-1] * _ORDERS)  # so that no n-gram crosses the end
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
    """Find the position of each key among sorted ones, and whether it is there."""
    place = np.searchsorted(sorted_keys, keys)
    inside = place < len(sorted_keys)
    found = inside.copy()
    found[inside] = sorted_keys[place[inside]] == keys[inside]
    return place, found


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate ranges: starts 7 3 and lengths 2 3 give 7 8 3 4 5."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _norms(bags: _Bags, weights: Floats, captions: int) -> Floats:
    """Compute the norms (captions, 4) of the weights for each n."""
    return np.sqrt(np.bincount(bags.rows, weights**2, 4 * captions)).reshape(-1, 4)


def _lengths(captions: Sequence[Tokens]) -> Ints:
    """Return the captions' lengths, in bigrams."""
    return np.array([max(0, len(tokens) - 1) for tokens in captions], dtype=np.int64)
