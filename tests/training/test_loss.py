"""The loss by captions' weights, held against sums over single words."""

import math

import pytest
import torch
from torch import nn

from captioner.training.loss import CaptionLoss
from captioner.vocabulary import PAD
from tests.model.decoders import make_decoder, make_features

V = 11
CAPTIONS = torch.tensor(
    [
        [[1, 5, 6, 4, 2], [1, 4, 2, 0, 0], [1, 2, 0, 0, 0]],
        [[1, 7, 8, 2, 0], [1, 9, 2, 0, 0], [0, 0, 0, 0, 0]],
    ]
)
WEIGHTS = torch.tensor([[1.0, 0.3, 0.05], [0.3, 1.0, 0.0]])


def alone(counts):
    return [1.0] * len(counts)


def run():
    decoder = make_decoder("show_attend_tell", vocab_size=V).eval()
    return decoder(make_features()[:2], CAPTIONS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_words_by_their_captions_weights(smoothing):
    output = run()
    loss, _ = CaptionLoss(smoothing)(output, CAPTIONS, WEIGHTS, alone)
    log_probs = output.logits.detach().double().log_softmax(dim=1)
    total = weighed = 0.0
    for word, (target, row) in enumerate(
        zip(output.targets.tolist(), output.rows.tolist(), strict=True)
    ):
        own = float(WEIGHTS.flatten()[row])
        spread = float(-log_probs[word].mean())
        total += own * ((1 - smoothing) * -float(log_probs[word, target]) + smoothing * spread)
        weighed += own
    assert loss.item() == pytest.approx(total / weighed, rel=1e-5)


def test_equal_weights_are_the_plain_mean():
    output = run()
    present = (CAPTIONS != PAD).any(dim=2).float()
    plain = nn.functional.cross_entropy(output.logits, output.targets)
    for weight in (1.0, 0.4):
        loss, figures = CaptionLoss()(output, CAPTIONS, weight * present, alone)
        assert loss.item() == figures["loss"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_shares_of_several_processes_make_up_the_loss_of_one():
    """Each has an image; the mean of what they give is what one process gives of both."""
    decoder, features = make_decoder("show_attend_tell", vocab_size=V).eval(), make_features()[:2]
    loss = CaptionLoss(0.1, coverage_penalty=0.7)
    whole, _ = loss(run(), CAPTIONS, WEIGHTS, alone)
    seen: list[list[float]] = []

    def note(counts):
        seen.append(list(counts))
        return alone(counts)

    parts = [slice(0, 1), slice(1, 2)]
    for part in parts:
        loss(decoder(features[part], CAPTIONS[part]), CAPTIONS[part], WEIGHTS[part], note)
    totals = [sum(kind) or 1 for kind in zip(*seen, strict=True)]
    assert totals[0] == pytest.approx(4 * 1.0 + 2 * 0.3 + 1 * 0.05 + 3 * 0.3 + 2 * 1.0)
    assert totals[2] == pytest.approx(2.65)
    mean = 0.0
    for part, own in zip(parts, seen, strict=True):
        shares = [2 * count / total for count, total in zip(own, totals, strict=True)]
        output = decoder(features[part], CAPTIONS[part])
        mean += (
            loss(output, CAPTIONS[part], WEIGHTS[part], lambda counts, shares=shares: shares)[
                0
            ].item()
            / 2
        )
    assert mean == pytest.approx(whole.item(), rel=1e-5)


def test_teachers_are_heard_by_the_same_weights():
    output = run()
    taught = torch.rand(len(output.targets), V, generator=torch.Generator().manual_seed(0)).softmax(
        dim=1
    )
    _, figures = CaptionLoss(taught_weight=0.5)(output, CAPTIONS, WEIGHTS, alone, taught=taught)
    log_probs = output.logits.log_softmax(dim=1)
    each = [-math.fsum((p * own).tolist()) for p, own in zip(taught, log_probs, strict=True)]
    own = WEIGHTS.flatten()[output.rows].tolist()
    expected = math.fsum(w * e for w, e in zip(own, each, strict=True)) / math.fsum(own)
    assert figures["taught"].item() == pytest.approx(expected, rel=1e-5)
