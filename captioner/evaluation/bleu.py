"""BLEU as in the official COCO scorer, computed from n-gram counts per image."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner.evaluation.corpus import Corpus, Id, Tokens, check
from captioner.evaluation.metric import Measured, Need

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")

_ORDERS = 4


class BleuMetric:
    """Corpus BLEU-1 to BLEU-4, computed from summed counts rather than as means over images."""

    names = BLEU
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image from its n-gram counts, and the corpus from their sum."""
        counts = bleu_counts(corpus.reference_tokens, corpus.caption_tokens)
        scores = bleu_from_counts(counts.sum(axis=0)).tolist()
        return Measured(
            dict(zip(BLEU, scores, strict=True)),
            dict(zip(BLEU, bleu_from_counts(counts).T, strict=True)),
            counts,
            bleu_from_counts,
        )


def bleu(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, float, float, float]:
    """Compute corpus BLEU-1 to BLEU-4 (Papineni et al., 2002) as the official COCO scorer does.

    nltk's `corpus_bleu` gives the same numbers to 1e-9 if no count is zero. If one is, nltk returns
    0 with a warning, and counts one n-gram in a caption that is too short to have any; the official
    scorer's smoothing is used here instead.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        BLEU-1, BLEU-2, BLEU-3 and BLEU-4.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """
    b1, b2, b3, b4 = bleu_from_counts(bleu_counts(references, candidates).sum(axis=0)).tolist()
    return b1, b2, b3, b4


def bleu_counts(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> npt.NDArray[np.int64]:
    """Count the n-grams of each image that BLEU needs; corpus BLEU uses their sums over images.

    The counts equal those of nltk's `modified_precision` and `closest_ref_length` (a test compares
    them), but take a fifth of the time.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        An array (N, 10) in the order of `references`: the number of matched n-grams for n = 1 to 4,
        each clipped to the largest count in a single reference; the number of n-grams in the
        caption for n = 1 to 4; the caption's length; and the closest reference length (the shorter
        one in a tie).

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """
    check(references, candidates)
    return np.array(
        [_count(texts, candidates[image_id]) for image_id, texts in references.items()],
        dtype=np.int64,
    )


def bleu_from_counts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Compute BLEU-1 to BLEU-4 from counts by the official scorer's formula.

    p_n = (matched + 1e-15) / (guessed + 1e-9). BLEU-n is the geometric mean of p_1 to p_n, times
    exp(1 - 1 / ratio) if ratio = caption length / reference length is below 1.

    Args:
        counts: Rows of `bleu_counts`, or sums of them (..., 10).

    Returns:
        BLEU (..., 4).
    """
    precisions = (counts[..., :4] + 1e-15) / (counts[..., 4:8] + 1e-9)  # (..., 4)
    ratio = (counts[..., 8] + 1e-15) / (counts[..., 9] + 1e-9)  # (...)
    penalty = np.exp(np.minimum(0, 1 - 1 / ratio))[..., np.newaxis]
    scores: npt.NDArray[np.float64] = penalty * np.cumprod(precisions, axis=-1) ** (
        1 / np.arange(1, _ORDERS + 1)
    )
    return scores


def _count(references: Sequence[Tokens], candidate: Tokens) -> list[int]:
    length = len(candidate)
    guessed = [max(0, length - n) for n in range(_ORDERS)]
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return [*_clipped_matches(references, candidate), *guessed, length, closest]


def _clipped_matches(references: Sequence[Tokens], candidate: Tokens) -> list[int]:
    in_references: tuple[set[Hashable], ...] = (set(), set(), set(), set())  # for n = 1 to 4
    for reference in references:
        for known, ngrams in zip(in_references, _ngrams(reference), strict=True):
            known.update(ngrams)
    matches = []
    for order, (known, ngrams) in enumerate(
        zip(in_references, map(list, _ngrams(candidate)), strict=True)
    ):
        matched = known.intersection(ngrams)
        matches.append(len(matched))
        if len(set(ngrams)) < len(ngrams):  # clipping matters only for repeated n-grams
            for ngram in [ngram for ngram in matched if ngrams.count(ngram) > 1]:
                most = max(list(_ngrams(reference)[order]).count(ngram) for reference in references)
                matches[-1] += min(ngrams.count(ngram), most) - 1
    return matches


def _ngrams(tokens: Tokens) -> tuple[Iterable[Hashable], ...]:
    """Return the 1-grams, 2-grams, 3-grams and 4-grams."""
    second, third, fourth = tokens[1:], tokens[2:], tokens[3:]
    two, three = zip(tokens, second, strict=False), zip(tokens, second, third, strict=False)
    return tokens, two, three, zip(tokens, second, third, fourth, strict=False)
