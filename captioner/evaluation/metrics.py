"""BLEU and CIDEr-D of tokenised captions, equal to the official COCO scorer's numbers.

Captions come as token lists by image id, for example from `captioner.evaluation.tokenizer.tokenize`; scores are
fractions (BLEU-4 of 0.25 is published as 25), CIDEr-D lies between 0 and 10.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from captioner.errors import DataError, MissingExtraError

Id = TypeVar("Id", bound=Hashable)
Tokens: TypeAlias = Sequence[str]

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0  # of CIDEr-D's length penalty, in words


def bleu(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4 (Papineni et al., 2002) as the official COCO scorer computes them.

    Matches are clipped and the closest reference length is chosen by nltk, over the whole corpus. From there on nltk's
    `corpus_bleu` and the official scorer part where a count is zero (nltk gives 0, and counts one n-gram in a caption
    that is too short for any). The official formula is used throughout: p_n = (correct + 1e-15) / (guessed + 1e-9),
    which makes no difference above 1e-9 where no count is zero.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        BLEU-1, BLEU-2, BLEU-3 and BLEU-4.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
        MissingExtraError: nltk is not installed.
    """
    try:
        from nltk.translate.bleu_score import closest_ref_length, modified_precision
    except ImportError as error:
        raise MissingExtraError("BLEU", "eval") from error
    _check(references, candidates)
    correct, guessed = [0] * 4, [0] * 4
    candidate_length = reference_length = 0
    for image_id, candidate in candidates.items():
        candidate_length += len(candidate)
        reference_length += closest_ref_length(references[image_id], len(candidate))
        for n in _ORDERS:
            guessed[n - 1] += max(0, len(candidate) - n + 1)
            # The fraction is not reduced: its numerator is the number of clipped matches.
            correct[n - 1] += modified_precision(references[image_id], candidate, n).numerator
    ratio = (candidate_length + 1e-15) / (reference_length + 1e-9)
    brevity_penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    precisions = [(c + 1e-15) / (g + 1e-9) for c, g in zip(correct, guessed, strict=True)]
    b1, b2, b3, b4 = (brevity_penalty * math.prod(precisions[:n]) ** (1 / n) for n in _ORDERS)
    return b1, b2, b3, b4


def cider_d(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """CIDEr-D of captions; see `CiderD`, which is faster for scoring against the same references again.

    Returns:
        The corpus score and the images' scores (N,), in the order of `references`.
    """
    return CiderD(references).score(candidates)


class CiderD(Generic[Id]):
    """CIDEr-D (Vedantam et al., 2015) against references whose statistics are computed once.

    An n-gram (n = 1 to 4) weighs as often as it occurs in a caption times log(images / images with it in a reference).
    A caption and a reference are compared by the cosine of their weights, each clipped to the reference's, lowered by
    their difference in length; the score is the mean over n and over references, times 10. It depends on the set of
    images: for a single one every weight, and so the score, is 0.

    Args:
        references: One or more references for each image.

    Raises:
        DataError: There are no images, or one has no references.
    """

    def __init__(self, references: Mapping[Id, Sequence[Tokens]]) -> None:
        _check_references(references)
        counts = {image_id: [_count_ngrams(tokens) for tokens in texts] for image_id, texts in references.items()}
        images_with: Counter[tuple[str, ...]] = Counter()
        for texts in counts.values():
            images_with.update(set().union(*texts))
        self._log_images = math.log(len(references))
        self._idf = {ngram: self._log_images - math.log(images) for ngram, images in images_with.items()}
        self._references = {image_id: [_Weighed(c, self) for c in texts] for image_id, texts in counts.items()}

    def score(self, candidates: Mapping[Id, Tokens]) -> tuple[float, npt.NDArray[np.float64]]:
        """Scores one caption for each image of the references.

        Args:
            candidates: The caption to score for each image.

        Returns:
            The corpus score (the mean) and the images' scores (N,), in the order of the references.

        Raises:
            DataError: The captions are not of the same images as the references.
        """
        _check_same_images(self._references, candidates)
        scores = np.array(
            [
                self._score_one(_Weighed(_count_ngrams(candidates[image_id]), self), texts)
                for image_id, texts in self._references.items()
            ]
        )
        return float(scores.mean()), scores

    def idf(self, ngram: tuple[str, ...]) -> float:
        """What an n-gram weighs: log(images / images with it in a reference), at most log(images)."""
        return self._idf.get(ngram, self._log_images)

    @staticmethod
    def _score_one(candidate: "_Weighed", references: "list[_Weighed]") -> float:
        total = 0.0
        for reference in references:
            overlap = [0.0] * 4
            weight_in_reference = reference.weights.get
            for ngram, weight in candidate.weights.items():
                other = weight_in_reference(ngram)
                if other is not None:
                    overlap[len(ngram) - 1] += min(weight, other) * other
            cosines = sum(
                value / (norm * other_norm)
                for value, norm, other_norm in zip(overlap, candidate.norms, reference.norms, strict=True)
                if norm > 0 and other_norm > 0
            )
            difference = candidate.length - reference.length
            total += cosines * math.exp(-(difference**2) / (2 * _SIGMA**2))
        return 10 * total / (len(_ORDERS) * len(references))


class _Weighed:
    """A caption's n-grams with their weights, the norms of the weights for each n, and its length in bigrams."""

    __slots__ = ("length", "norms", "weights")

    def __init__(self, counts: Counter[tuple[str, ...]], corpus: "CiderD[Id]") -> None:
        self.weights = {ngram: count * corpus.idf(ngram) for ngram, count in counts.items()}
        squares = [0.0] * 4
        self.length = 0
        for ngram, weight in self.weights.items():
            squares[len(ngram) - 1] += weight * weight
            if len(ngram) == 2:
                self.length += counts[ngram]
        self.norms = [math.sqrt(square) for square in squares]


def _count_ngrams(tokens: Tokens) -> Counter[tuple[str, ...]]:
    return Counter(_ngrams(tokens))


def _ngrams(tokens: Tokens) -> Iterator[tuple[str, ...]]:
    for n in _ORDERS:
        yield from zip(*(tokens[start:] for start in range(n)), strict=False)


def _check(references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]) -> None:
    _check_references(references)
    _check_same_images(references, candidates)


def _check_references(references: Mapping[Id, Sequence[Tokens]]) -> None:
    if not references:
        raise DataError("no images to score; expected references of at least one")
    for image_id, texts in references.items():
        if not texts:
            raise DataError(f"image {image_id!r} has no reference captions; expected at least one")


def _check_same_images(references: Mapping[Id, object], candidates: Mapping[Id, object]) -> None:
    for image_id in candidates:
        if image_id not in references:
            raise DataError(f"image {image_id!r} has a caption but no references; score the images of the references")
    missing = [image_id for image_id in references if image_id not in candidates]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(references)} images have no caption, image {missing[0]!r} for one; "
            "every image with references needs one"
        )
