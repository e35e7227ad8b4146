"""BLEU, as the official COCO scorer computes it, from n-gram counts per image."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner.evaluation.corpus import Corpus, Id, Tokens, check
from captioner.evaluation.metric import Measured, Need

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")

_ORDERS = 4


class BleuMetric:
    """Corpus BLEU-1 to BLEU-4: no means over images, but computed from sums of counts."""

    names = BLEU
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        """Count n-grams of each image, and score their sums and each image's own."""
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
    """Corpus BLEU-1 to BLEU-4 (Papineni et al., 2002) as the official COCO scorer computes them.

    nltk's `corpus_bleu` gives the same numbers where no count is zero, to 1e-9. Where one is, it
    gives 0 with a warning and counts one n-gram in a caption that is too short for any; the
    official formula is used throughout.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        BLEU-1, BLEU-2, BLEU-3 and BLEU-4.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
    """
    b1, b2, b3, b4 = bleu_from_counts(bleu_counts(references, candidates).sum(axis=0)).tolist()
    return b1, b2, b3, b4


def bleu_counts(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> npt.NDArray[np.int64]:
    """What BLEU is computed from, for each image; corpus BLEU takes the sum over images.

    The counts are those of nltk's `modified_precision` and `closest_ref_length`, which a test holds
    them against; nltk takes five times as long, more than all other scores together.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        An array (N, 10) in the order of `references`: for n = 1 to 4 how many of the caption's
        n-grams are in a reference, each clipped to the most that one reference has; for n = 1 to 4
        how many the caption has; its length; and the reference length that is closest to it, the
        shorter of two.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
    """
    check(references, candidates)
    return np.array(
        [_count(texts, candidates[image_id]) for image_id, texts in references.items()],
        dtype=np.int64,
    )


def bleu_from_counts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """BLEU-1 to BLEU-4 from counts by the official formula.

    p_n = (matched + 1e-15) / (guessed + 1e-9); BLEU-n is the geometric mean of p_1 to p_n, times
    exp(1 - 1 / ratio) where ratio, the caption's length by the reference's, is below 1.

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
    in_references: tuple[set[Hashable], ...] = (set(), set(), set(), set())  # of each n
    for reference in references:
        for known, ngrams in zip(in_references, _ngrams(reference), strict=True):
            known.update(ngrams)
    matches = []
    for order, (known, ngrams) in enumerate(
        zip(in_references, map(list, _ngrams(candidate)), strict=True)
    ):
        matched = known.intersection(ngrams)
        matches.append(len(matched))
        if len(set(ngrams)) < len(ngrams):  # only what repeats needs counting in the references
            for ngram in [ngram for ngram in matched if ngrams.count(ngram) > 1]:
                most = max(list(_ngrams(reference)[order]).count(ngram) for reference in references)
                matches[-1] += min(ngrams.count(ngram), most) - 1
    return matches


def _ngrams(tokens: Tokens) -> tuple[Iterable[Hashable], ...]:
    """The n-grams of one word to four."""
    second, third, fourth = tokens[1:], tokens[2:], tokens[3:]
    two, three = zip(tokens, second, strict=False), zip(tokens, second, third, strict=False)
    return tokens, two, three, zip(tokens, second, third, fourth, strict=False)
