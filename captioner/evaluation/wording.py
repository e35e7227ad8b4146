"""Wording that the text report and the HTML report share."""

import math

import numpy as np

from captioner.evaluation.findings import Evaluation
from captioner.evaluation.metrics import LOWER_IS_BETTER

FEW = 30  # images; with fewer, bootstrap samples are too similar and intervals too narrow


def notes(evaluation: Evaluation) -> list[str]:
    """Return notes on how to read the scores, a sentence each."""
    found = []
    n = evaluation.n_images
    if 0 < n < FEW and evaluation.intervals:
        found.append(f"Fewer than {FEW} images: too few to rely on intervals and p-values.")
    if n == 1 and "CIDEr-D" in evaluation.scores:
        found.append("CIDEr-D is always 0 if there is only one image.")
    if LOWER_IS_BETTER.intersection(evaluation.scores):
        found.append("CHAIR counts objects that are not in the images: lower is better.")
    for name, value in evaluation.scores.items():
        if math.isnan(value):
            unknown = int(np.isnan(evaluation.per_image[name]).sum())
            found.append(
                f"{name} is undefined for {unknown:,} of the {n:,} images, and so for the whole"
                " set."
            )
    return found


def left_out(evaluation: Evaluation) -> list[str]:
    """Return sentences on how many images are not scored, and why; empty if all are scored."""
    n, annotated, comparison = evaluation.n_images, evaluation.annotated, evaluation.comparison
    if n >= annotated:
        return []
    theirs = 0 if comparison is None else comparison.missing
    found = [f"{n:,} of {annotated:,} annotated images {'was' if n == 1 else 'were'} scored."]
    if ours := annotated - n - theirs:
        found.append(f"Without a caption: {ours:,}.")
    if comparison is not None and theirs:
        found.append(f"Captioned, but not in {comparison.name}: {theirs:,}.")
    return found


def points(value: float, sign: str = "") -> str:
    """Format a fraction as published: times 100, with one decimal; a dash for nan.

    Args:
        value: The fraction.
        sign: "+" to show the sign of positive numbers.
    """
    return (
        "\u2013" if math.isnan(value) else f"{round(100 * value, 1) + 0.0:{sign}.1f}"
    )  # + 0.0 turns -0.0 into 0.0
