"""Captions of validation; scores of its sets, and their mean."""

from dataclasses import replace

import pytest
import torch

from captioner import Captioner
from captioner.data.dataset import Batch
from captioner.data.splits import ValidationSet
from captioner.images import open_image
from captioner.training.lightning_module import CaptioningModule
from captioner.training.validation import Validated, mean_scores
from tests.training.runs import ROOT


def validated(*weights: float) -> list[Validated]:
    return [Validated(ValidationSet(f"{each}", [], weight=each), {}) for each in weights]


def test_the_mean_of_scores_is_weighted() -> None:
    scores = [{"CIDEr-D": 0.2, "BLEU-4": 0.5}, {"CIDEr-D": 0.6, "BLEU-4": 0.1}]
    assert mean_scores(validated(3, 1), scores) == pytest.approx({"CIDEr-D": 0.3, "BLEU-4": 0.4})
    assert mean_scores(validated(0, 1), scores) == pytest.approx(scores[1])


def test_before_training_perhaps_only_sets_of_weight_0_were_captioned() -> None:
    assert mean_scores(validated(0), [{"CIDEr-D": 0.2}]) == pytest.approx({"CIDEr-D": 0.2})


def test_validation_says_tags_where_the_saved_model_does() -> None:
    photo = ROOT / "examples" / "cat.jpg"
    captioner = Captioner.from_pretrained(backend="torch")
    decoding = replace(captioner.decoding, beam_size=2, min_length=1, max_length=3)
    captioner.decoding = decoding
    (expected,) = captioner.caption(photo)
    assert expected.text != captioner.caption(photo, say_tags=False)[0].text

    size = captioner.preprocessing.size
    pixels = torch.from_numpy(captioner.preprocessing(open_image(photo, min_size=size)))
    nothing = torch.empty(1, 0)
    batch = Batch(pixels[None], nothing, torch.zeros(1, dtype=torch.long), nothing, [])
    module = CaptioningModule(
        captioner.vocabulary, captioner.preprocessing, init_from="bundled", decoding=decoding
    )
    module._styles = [""]
    module.validation_step(batch, 0)
    assert module._captions == {0: expected.text}
