"""Scores of validation sets, and their mean."""

import pytest

from captioner.data.splits import ValidationSet
from captioner.training.validation import Validated, mean_scores


def validated(*weights: float) -> list[Validated]:
    return [Validated(ValidationSet(f"{each}", [], weight=each), {}) for each in weights]


def test_the_mean_of_scores_is_weighted() -> None:
    scores = [{"CIDEr-D": 0.2, "BLEU-4": 0.5}, {"CIDEr-D": 0.6, "BLEU-4": 0.1}]
    assert mean_scores(validated(3, 1), scores) == pytest.approx({"CIDEr-D": 0.3, "BLEU-4": 0.4})
    assert mean_scores(validated(0, 1), scores) == pytest.approx(scores[1])


def test_before_training_perhaps_only_sets_of_weight_0_were_captioned() -> None:
    assert mean_scores(validated(0), [{"CIDEr-D": 0.2}]) == pytest.approx({"CIDEr-D": 0.2})
