"""Decoders: teacher forcing against stepping, independence of rows, overfitting."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captioner.backends.torch import TorchBackend
from captioner.decoding import Constraints, DecodingOptions
from captioner.decoding.search import search
from captioner.errors import ConfigError
from captioner.model.beams import Beams
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DECODERS, DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.tags.words import ClassWords
from captioner.vocabulary import PAD, SPECIAL_WORDS, Vocabulary
from tests.model.decoders import (
    CAPTIONS,
    POINTER,
    TINY,
    B,
    L,
    Place,
    V,
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


def assert_same(actual: dict[Place, Tensor], expected: dict[Place, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for place, logits in expected.items():
        torch.testing.assert_close(
            actual[place], logits, atol=1e-5, rtol=1e-5, msg=lambda m, p=place: f"{p}: {m}"
        )


# --- Teacher forcing ---


@both
@torch.inference_mode()
@pytest.mark.parametrize("tie_embedding", [True, False])
def test_teacher_forcing_equals_stepping_through_each_caption_alone(
    name: str, tie_embedding: bool, features: Tensor
) -> None:
    decoder = make_decoder(name, tie_embedding=tie_embedding)
    output = decoder(features, CAPTIONS)
    places = places_of(CAPTIONS)
    assert output.targets.tolist() == [int(CAPTIONS[b, k, t + 1]) for t, b, k in places]
    stepped: dict[Place, Tensor] = {}
    coverage = torch.zeros(B, 3, L)
    for b in range(B):
        for k in range(3):
            image, state = decoder.prepare(features[b : b + 1])
            state = first_state(state)
            for t in range(sum(place[1:] == (b, k) for place in places)):
                logits, state, attention = decoder.step(image, state, CAPTIONS[b, k, t].view(1, 1))
                stepped[t, b, k] = logits[0, 0]
                if attention is not None:
                    assert attention.min() > 0
                    assert float(attention.sum()) == pytest.approx(1, abs=1e-5)
                    coverage[b, k] += attention[0, 0]
    assert_same(by_place(output, CAPTIONS), stepped)
    if name.startswith("show_tell"):
        assert output.coverage is None
    else:
        torch.testing.assert_close(output.coverage, coverage, atol=1e-5, rtol=0)


@both
@torch.inference_mode()
def test_several_rows_of_an_image_step_as_each_alone(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    image, state = decoder.prepare(features)
    together = {
        key: array.unsqueeze(1).expand(-1, 3, -1) for key, array in state.items()
    }  # (B, K, H)
    alone = [first_state(state) for _ in range(3)]
    for words in torch.randint(0, V, (4, B, 3)):
        logits, together, _ = decoder.step(image, together, words)
        for k in range(3):
            expected, alone[k], _ = decoder.step(image, alone[k], words[:, k : k + 1])
            torch.testing.assert_close(logits[:, k], expected[:, 0], atol=1e-5, rtol=1e-5)


@both
@torch.inference_mode()
def test_beams_that_share_parents_and_words_step_as_if_they_did_not(
    name: str, features: Tensor
) -> None:
    decoder = make_decoder(name)
    image, state = decoder.prepare(features)
    random = torch.Generator().manual_seed(1)
    parents, k = torch.arange(B).unsqueeze(1), 1  # (B, K) of the rows of the last step
    for beams in (1, 3, 4, 2):
        offsets = torch.randint(0, k, (B, beams), generator=random)
        parents, k = torch.arange(B).unsqueeze(1) * k + offsets, beams
        words = torch.randint(4, 7, (B, beams), generator=random)
        rows, row_of = parents.unique(return_inverse=True)
        first = torch.stack([(parents.flatten() == row).nonzero()[0, 0] for row in rows])
        distinct, word_of = words.unique(return_inverse=True)
        shared = decoder.step_beams(image, state, Beams(rows, row_of, first, distinct, word_of))
        chosen = {key: array[parents] for key, array in state.items()}
        torch.testing.assert_close(shared, decoder.step(image, chosen, words), atol=1e-5, rtol=1e-5)
        state = {key: array.flatten(0, 1) for key, array in shared[1].items()}


@both
@torch.inference_mode()
def test_the_order_of_images_and_captions_does_not_matter(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    images, rows = [2, 0, 3, 1], [2, 1, 0]
    captions = CAPTIONS[images][:, rows]
    shuffled = by_place(decoder(features[images], captions), captions)
    restored = {(t, images[b], rows[k]): logits for (t, b, k), logits in shuffled.items()}
    assert_same(restored, by_place(decoder(features, CAPTIONS), CAPTIONS))


@both
@torch.inference_mode()
def test_padding_beyond_the_end_changes_nothing(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    output = decoder(features, CAPTIONS)
    padded = nn.functional.pad(
        CAPTIONS, (0, 4, 0, 2)
    )  # longer, and two more rows without a caption
    more = decoder(features, padded)
    assert torch.equal(more.targets, output.targets)
    torch.testing.assert_close(more.logits, output.logits)
    if output.coverage is not None:
        torch.testing.assert_close(more.coverage[:, :3], output.coverage)
        assert not more.coverage[:, 3:].any()


@both
@pytest.mark.parametrize("length", [2, 6])
def test_a_batch_of_nothing_but_padding_gives_no_words(
    name: str, length: int, features: Tensor
) -> None:
    decoder = make_decoder(name).train()
    output = decoder(features, torch.full((B, 3, length), PAD), 0.5)
    assert output.logits.shape == (0, V)
    assert output.targets.shape == (0,)
    assert name.startswith("show_tell") or (
        output.coverage.shape == (B, 3, L) and not output.coverage.any()
    )
    # in training on several GPUs, one with nothing to say must take part
    output.logits.sum().backward()
    assert all(
        not parameter.grad.any() for parameter in decoder.parameters() if parameter.grad is not None
    )


@both
def test_an_image_and_its_captions_do_not_influence_another(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    features.requires_grad_()
    logits = by_place(decoder(features, CAPTIONS), CAPTIONS)
    for image in (0, 2, 3):
        total = (
            torch.stack([row for place, row in logits.items() if place[1] == image]).square().sum()
        )
        (gradient,) = torch.autograd.grad(total, features, retain_graph=True)
        assert {b for b in range(B) if gradient[b].any()} == {image}

    perturbed, captions = features.detach().clone(), CAPTIONS.clone()
    perturbed[2] += 1
    captions[2, 1] = torch.tensor([1, 3, 3, 3, 3, 2])
    after = by_place(decoder(perturbed, captions), captions)
    for place, row in logits.items():
        if place[1] != 2:
            torch.testing.assert_close(after[place], row)
    assert not torch.allclose(after[0, 2, 0], logits[0, 2, 0])


@both
@torch.inference_mode()
def test_a_caption_does_not_influence_another_of_its_image(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    captions = CAPTIONS.clone()
    captions[0, 0] = torch.tensor([1, 9, 9, 9, 9, 2])
    before, after = (by_place(decoder(features, words), words) for words in (CAPTIONS, captions))
    for place, logits in before.items():
        if place[1:] != (0, 0):
            torch.testing.assert_close(after[place], logits)


@both
@torch.inference_mode()
def test_a_word_does_not_influence_those_before_it(name: str, features: Tensor) -> None:
    decoder = make_decoder(name)
    captions = CAPTIONS.clone()
    captions[2, 0, 3] = 11
    before, after = (by_place(decoder(features, words), words) for words in (CAPTIONS, captions))
    for t in range(5):
        assert torch.allclose(before[t, 2, 0], after[t, 2, 0]) == (t < 3)


@both
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(
        name.removesuffix(POINTER),
        hidden_size=2,
        embedding_size=2,
        context_size=3,
        attention_size=2,
        dropout=0,
    )
    decoder = DECODERS[config.name](config, 3, 6, PAD).double()
    if name.endswith(POINTER):
        decoder.add_pointer()
        words = ClassWords(np.array([3, 5]), np.array([0, 1, 1]), np.array([1, 0, 1]))
        decoder.double().pointer.aim(nn.Linear(3, 2).double(), words)
    names = [key for key, _ in decoder.named_parameters()]
    features = torch.randn(2, 2, 3, dtype=torch.double, requires_grad=True)
    captions = torch.tensor([[[1, 4, 2, 0], [1, 2, 0, 0]], [[1, 5, 3, 2], [0, 0, 0, 0]]])

    def compute(features: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        arguments = (features, captions)
        output = torch.func.functional_call(
            decoder, dict(zip(names, parameters, strict=True)), arguments
        )
        return (output.logits,) if output.coverage is None else (output.logits, output.coverage)

    assert torch.autograd.gradcheck(compute, (features, *decoder.parameters()), fast_mode=True)


@both
def test_dropout_is_for_training_alone(name: str, features: Tensor) -> None:
    decoder = make_decoder(name, dropout=0.5)
    plain = make_decoder(name)(features, CAPTIONS).logits
    torch.testing.assert_close(decoder(features, CAPTIONS).logits, plain)
    assert not torch.allclose(decoder.train()(features, CAPTIONS).logits, plain)


# --- Word embedding ---


@both
def test_a_tied_embedding_is_one_tensor(name: str) -> None:
    decoder = make_decoder(name)
    assert decoder.output.weight is decoder.embedding.weight
    for tied in (copy.deepcopy(decoder), copy.deepcopy(decoder).double()):
        assert tied.output.weight.data_ptr() == tied.embedding.weight.data_ptr()
    assert "output.weight" not in dict(decoder.named_parameters())
    untied = make_decoder(name, tie_embedding=False)
    assert untied.output.weight.data_ptr() != untied.embedding.weight.data_ptr()


@pytest.mark.parametrize("tie_embedding", [True, False])
def test_a_tied_embedding_is_stored_once_and_stays_tied_when_loaded(tie_embedding: bool) -> None:
    config = replace(TINY, tie_embedding=tie_embedding)
    first, second = (
        CaptioningModel(EncoderConfig("squeezenet1_1"), config, image_size=32, vocab_size=V)
        for _ in range(2)
    )
    state = first.portable_state()
    assert "decoder.embedding.weight" in state
    assert ("decoder.output.weight" in state) != tie_embedding
    second.load_portable_state(state)
    loaded = second.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in first.state_dict().items())
    assert (second.decoder.output.weight is second.decoder.embedding.weight) == tie_embedding


# --- Learning ---


@pytest.mark.parametrize("name", DECODERS)
def test_four_images_are_learnt_by_heart(name: str) -> None:
    torch.manual_seed(0)
    texts = [
        "a dog runs on the grass",
        "a cat",
        "two men and a dog",
        "the cat runs on the street and on the grass",
    ]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = Vocabulary([*SPECIAL_WORDS, *words])
    captions = [torch.tensor(vocabulary.encode(text.split())) for text in texts]
    padded = nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=PAD).unsqueeze(
        1
    )  # (B, 1, T)
    config = DecoderConfig(
        name, hidden_size=32, embedding_size=24, context_size=24, attention_size=16, dropout=0
    )
    model = CaptioningModel(
        EncoderConfig("squeezenet1_1"), config, image_size=32, vocab_size=len(vocabulary)
    )
    features = torch.randn(4, 6, model.encoder.width)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=0.01)
    for _ in range(200):
        output = model.decoder(features, padded)
        loss = nn.functional.cross_entropy(output.logits, output.targets)
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    options = DecodingOptions(beam_size=1, no_repeat_ngram=0)
    found = search(
        TorchBackend(model).start(features), options, Constraints.from_options(options, vocabulary)
    )
    assert [vocabulary.text(best.words) for best, *_ in found] == texts


# --- Configuration ---


@both
@pytest.mark.parametrize("key", ["hidden_size", "embedding_size", "context_size", "attention_size"])
def test_widths_must_be_positive(name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"decoder\.{key} is 0; expected a positive"):
        make_decoder(name, **{key: 0})


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_must_be_a_share_below_one(dropout: float) -> None:
    with pytest.raises(ConfigError, match=rf"decoder\.dropout is {dropout}"):
        make_decoder("show_tell", dropout=dropout)
