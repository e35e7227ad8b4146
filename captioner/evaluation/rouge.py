"""ROUGE-L as in the official COCO scorer."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner.evaluation.corpus import Corpus, Id, Tokens, check
from captioner.evaluation.metric import Measured, Need

_BETA = 1.2  # the weight of recall relative to precision


class RougeLMetric:
    """ROUGE-L: the mean over images."""

    names = ("ROUGE-L",)
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image."""
        return Measured.mean("ROUGE-L", rouge_l(corpus.reference_tokens, corpus.caption_tokens)[1])


def rouge_l(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Compute ROUGE-L (Lin, 2004) as the official COCO scorer does.

    The longest common subsequence of the caption with each reference gives a precision and a
    recall. The F-score with beta = 1.2 combines the largest precision and the largest recall, even
    if they belong to different references.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        The corpus score (the mean) and the images' scores (N,), in the order of `references`.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """
    check(references, candidates)
    scores = np.array(
        [_rouge_l(texts, candidates[image_id]) for image_id, texts in references.items()]
    )
    return float(scores.mean()), scores


def _rouge_l(references: Sequence[Tokens], candidate: Tokens) -> float:
    candidate = candidate or [""]  # the official scorer treats an empty caption as one empty word
    places: dict[str, int] = {}  # each word's positions, as a bit mask
    for place, word in enumerate(candidate):
        places[word] = places.get(word, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        common = _longest_common_subsequence(places, len(candidate), reference or [""])
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / (len(reference) or 1))
    if precision == 0:
        return 0.0
    return ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)


def _longest_common_subsequence(places: Mapping[str, int], length: int, reference: Tokens) -> int:
    """Compute the length of the longest common subsequence, bit-parallel.

    Crochemore, Iliopoulos, Pinzon and Reid (2001), as simplified by Hyyrö (2004). Bit i is 0 if the
    dynamic programming table increases at the caption's word i. Carries only go upwards, so bits
    above the caption's length can be ignored.
    """
    row = (1 << length) - 1
    for word in reference:
        matches = row & places.get(word, 0)
        row = (row + matches) | (row - matches)
    return length - (row & ((1 << length) - 1)).bit_count()
