"""METEOR by its official jar."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner.evaluation.corpus import Corpus, Id, Tokens, check
from captioner.evaluation.java import (
    UTF8,
    conversation,
    existing_jar,
    find_java,
    one_line,
    package_folder,
)
from captioner.evaluation.metric import Measured, Need

_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")


class MeteorMetric:
    """METEOR: its corpus score is not the mean over images."""

    names = ("METEOR",)
    needs: tuple[Need, ...] = ("Java",)

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image, and all of them."""
        score, per_image = meteor(corpus.reference_tokens, corpus.caption_tokens)
        return Measured({"METEOR": score}, {"METEOR": per_image})


def meteor(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Compute METEOR 1.5 (Denkowski and Lavie 2014) like the official COCO scorer: `-l en -norm`.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        The corpus score (from summed statistics, not the mean over images) and the images' scores
        (N,), in the order of `references`.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
        MissingExtraError: pycocoevalcap is not installed.
        MissingJavaError: Java or the jar is missing or does not work.
    """
    check(references, candidates)
    jar = existing_jar("METEOR", package_folder("METEOR") / "meteor" / "meteor-1.5.jar")
    command = [find_java("METEOR"), "-Xmx2G", UTF8, "-jar", jar, *_OPTIONS]
    with conversation("METEOR", command, len(references)) as (ask, read):
        statistics = [
            ask(_line(texts, candidates[image_id])) for image_id, texts in references.items()
        ]
        answers = [ask(" ||| ".join(["EVAL", *statistics])), *(read() for _ in references)]
    *scores, corpus = map(float, answers)
    return corpus, np.array(scores)


def _line(references: Sequence[Tokens], candidate: Tokens) -> str:
    return " ||| ".join(["SCORE", *map(one_line, references), one_line(candidate)])
