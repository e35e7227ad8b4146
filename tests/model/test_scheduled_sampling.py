"""Scheduled sampling: which inputs are replaced, how many, and by what."""

import pytest
import torch
from torch import Tensor

from captioner.model.decoder import Decoder
from captioner.vocabulary import END, START
from tests.model.decoders import (
    CAPTIONS,
    B,
    both,
    by_place,
    first_state,
    make_decoder,
    make_features,
    places_of,
)


@pytest.fixture
def features() -> Tensor:
    return make_features()


def make_certain(name: str) -> Decoder:
    """A decoder that gives one word nearly all probability, another one in each situation."""
    decoder = make_decoder(name, tie_embedding=False)
    with torch.no_grad():
        decoder.output.weight.mul_(1e4)
    return never_pointing(decoder)


def never_pointing(decoder: Decoder) -> Decoder:
    """Let a pointer, if there is one, say nothing: tags would be among the words."""
    if decoder.pointer is not None:
        with torch.no_grad():
            decoder.pointer.gate.weight.zero_()
            decoder.pointer.gate.bias.fill_(-1e4)
    return decoder


@both
def test_without_scheduled_sampling_nothing_is_drawn(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    before = torch.get_rng_state()
    plain, zero = decoder(features, CAPTIONS), decoder(features, CAPTIONS, 0.0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(plain.logits, zero.logits)


@both
@torch.inference_mode()
def test_with_full_scheduled_sampling_the_inputs_are_the_models_own_words(
    name: str, features: Tensor
) -> None:
    decoder = make_certain(name)
    image, state = decoder.prepare(features)
    state, words = first_state(state), torch.full((B, 1), START)
    rollout, said = [], []
    for _ in range(5):
        logits, state, _ = decoder.step(image, state, words)
        words = logits.argmax(dim=2)
        rollout.append(logits[:, 0])
        said.append(words[:, 0].tolist())
    assert (
        len({tuple(words) for words in zip(*said, strict=True)}) > 1
    )  # images differ in what is said of them
    forced = by_place(decoder(features, CAPTIONS), CAPTIONS)
    assert all(
        (logits - rollout[t][b]).abs().max() > 100 for (t, b, _), logits in forced.items() if t
    )
    output = decoder(features, CAPTIONS, 1.0)
    for (t, b, _), logits in by_place(output, CAPTIONS).items():
        torch.testing.assert_close(
            logits, rollout[t][b], rtol=1e-4, atol=1.0
        )  # log-odds of many thousands
    assert output.targets.tolist() == [
        int(CAPTIONS[b, k, t + 1]) for t, b, k in places_of(CAPTIONS)
    ]


@both
@torch.inference_mode()
def test_scheduled_sampling_replaces_its_share_of_the_inputs(name: str, features: Tensor) -> None:
    decoder = never_pointing(make_decoder(name))
    decoder.output.bias[11] = 1e4  # the word that it always proposes
    captions = torch.tensor([START, 5, END]).repeat(1, 3000, 1)
    reference = torch.tensor([[[START, 5, END], [START, 11, END]]])
    _, _, given, proposed = decoder(features[:1], reference).logits
    assert not torch.allclose(given, proposed)
    second = decoder(features[:1], captions, 0.3).logits[3000:]
    distances = torch.stack(
        [(second - given).abs().amax(1), (second - proposed).abs().amax(1)]
    )  # (2, 3000)
    assert distances.amin(0).max() < 1e-3
    assert float(distances.argmin(0).float().mean()) == pytest.approx(
        0.3, abs=0.04
    )  # nearly five standard deviations


@both
@torch.inference_mode()
def test_scheduled_sampling_draws_from_the_models_distribution(name: str, features: Tensor) -> None:
    decoder = never_pointing(make_decoder(name))
    decoder.output.bias.fill_(-1e4)
    decoder.output.bias[[5, 11]] = 0  # of all words, these two are left
    reference = torch.tensor([[[START, word, END] for word in (5, 11)]])
    first, _, after_5, after_11 = decoder(features[:1], reference).logits
    expected = float(torch.softmax(first, 0)[11])
    assert 0.05 < expected < 0.95
    second = decoder(features[:1], torch.tensor([START, 7, END]).repeat(1, 3000, 1), 1.0).logits[
        3000:
    ]
    distances = torch.stack([(second - after_5).abs().amax(1), (second - after_11).abs().amax(1)])
    assert distances.amin(0).max() < 1e-3
    assert float(distances.argmin(0).float().mean()) == pytest.approx(expected, abs=0.04)
