"""SPICE by its official jar."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner.evaluation.corpus import Corpus, Id, Tokens, check
from captioner.evaluation.java import (
    UTF8,
    MissingJavaError,
    existing_jar,
    find_java,
    one_line,
    package_folder,
    run_java,
)
from captioner.evaluation.metric import Measured, Need


class SpiceMetric:
    """SPICE: the mean over images."""

    names = ("SPICE",)
    needs: tuple[Need, ...] = ("Java",)

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image."""
        return Measured.mean("SPICE", spice(corpus.reference_tokens, corpus.caption_tokens)[1])


def spice(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Compute SPICE 1.0 (Anderson et al. 2016) like the official COCO scorer, without its cache.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        The corpus score (the mean) and the images' scores (N,), in the order of `references`; nan
        where there is none.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
        MissingExtraError: pycocoevalcap is not installed.
        MissingJavaError: Java, the jar or Stanford's models are missing or do not work.
    """
    check(references, candidates)
    folder = package_folder("SPICE") / "spice"
    jar, java = existing_jar("SPICE", folder / "spice-1.0.jar"), find_java("SPICE")
    for models in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        if not (folder / "lib" / models).is_file():
            raise MissingJavaError(
                f"SPICE requires {models}, which is not part of pycocoevalcap. Download it once"
                " (400 MB): python -m pycocoevalcap.spice.get_stanford_models"
            )
    entries = [
        {
            "image_id": row,
            "test": one_line(candidates[image_id]),
            "refs": [one_line(text) for text in texts],
        }
        for row, (image_id, texts) in enumerate(references.items())
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "captions.json", Path(scratch) / "scores.json"
        given.write_text(json.dumps(entries), encoding="utf-8")
        run_java(
            "SPICE",
            [java, "-Xmx8G", UTF8, "-jar", jar, str(given), "-out", str(result), "-silent"],
            len(entries),
        )
        answers = json.loads(result.read_bytes())
    scored = {answer["image_id"]: answer["scores"]["All"]["f"] for answer in answers}
    scores = np.array(
        [scored[row] for row in range(len(entries))], dtype=np.float64
    )  # None becomes nan
    return float(scores.mean()), scores
