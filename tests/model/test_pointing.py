"""The pointer: its formula, its words, its way through checkpoints and backends."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captioner.backends.onnx import OnnxBackend
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.decoding import DecodingOptions
from captioner.errors import ConfigError
from captioner.export import save_checkpoint
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.pointing import Pointer
from captioner.model.temporal import TemporalConfig
from captioner.preprocessing import Preprocessing
from captioner.tags import TagConfig
from captioner.tags.table import TagTable
from captioner.tags.words import ClassWords
from captioner.training.network import continued_network
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.model.decoders import enlarge

SIZE = 96
WORDS = ["a", "cat", "kittens", "dogs", "tree", "of", "puppy"]
VOCABULARY = Vocabulary([*SPECIAL_WORDS, *WORDS])
TAGS = TagConfig(("cat", "dog", "ox"))
CONFIG = DecoderConfig(
    hidden_size=12, embedding_size=10, context_size=8, attention_size=6, pointer=True
)


def make_model(config: DecoderConfig = CONFIG, tags: TagConfig | None = TAGS) -> CaptioningModel:
    torch.manual_seed(3)
    model = CaptioningModel(
        EncoderConfig("timm/test_resnet"),
        config,
        image_size=SIZE,
        vocab_size=len(VOCABULARY),
        tags=tags,
    ).eval()
    enlarge(model.decoder)
    if model.classifier is not None:
        with torch.no_grad():
            model.classifier.weight.mul_(5)
    return model


def save(model: CaptioningModel, folder: Path, *, onnx: bool = True) -> Path:
    save_checkpoint(
        folder,
        model,
        vocabulary=VOCABULARY,
        preprocessing=Preprocessing(size=SIZE),
        decoding=DecodingOptions(beam_size=3, max_length=6),
        card="",
        half=False,
        onnx=onnx,
    )
    return folder


def test_the_words_are_forms_of_the_nouns_of_classes_and_of_more_general_ones() -> None:
    table = TagTable(
        ("tabby", "beagle", "oak"), (("cat", "animal"), ("dog", "animal"), ("tree house", "tree"))
    )
    words = ["animals", "house", "cats", "puppy", "tree", "red"]
    named = ClassWords.find(table, words)
    pairs = [
        (table.classes[one], words[named.words[place]])
        for one, place in zip(named.classes, named.places, strict=True)
    ]
    assert sorted(pairs) == [
        ("beagle", "animals"),
        ("beagle", "puppy"),  # a synonym of dog
        ("oak", "tree"),
        ("tabby", "animals"),
        ("tabby", "cats"),
    ]


def test_a_word_comes_from_the_vocabulary_or_by_the_gate_from_the_tags() -> None:
    torch.manual_seed(0)
    pointer = Pointer(4, 3).double()
    nn.init.normal_(pointer.gate.weight)
    classifier = nn.Linear(5, 3).double()
    named = ClassWords(np.array([1, 4, 5]), np.array([0, 1, 1, 2]), np.array([0, 0, 2, 1]))
    pointer.aim(classifier, named)
    features, embedding = torch.randn(1, 2, 5).double(), torch.randn(6, 3).double()
    logits, readout, last = (torch.randn(size).double() for size in (6, 4, 3))
    tags = pointer.tags(features)
    result = pointer(logits, readout, last, tags[0], embedding).exp()

    classes = torch.softmax(classifier(features[0].mean(0)), 0).tolist()
    shown = {1: classes[0] + classes[1], 4: classes[2], 5: classes[1]}
    assert tags[0].exp().tolist() == pytest.approx([p + 1e-5 for p in shown.values()])
    state = [*readout.tolist(), *last.tolist()]
    query, bias = pointer.query.weight.tolist(), pointer.query.bias.tolist()
    asked = [
        sum(w * x for w, x in zip(row, state, strict=True)) + b
        for row, b in zip(query, bias, strict=True)
    ]
    wanted = {
        word: math.exp(sum(q * e for q, e in zip(asked, embedding[word].tolist(), strict=True)))
        * (p + 1e-5)
        for word, p in shown.items()
    }
    opened = sum(w * x for w, x in zip(pointer.gate.weight[0].tolist(), state, strict=True))
    gate = 1 / (1 + math.exp(-opened - pointer.gate.bias.item()))
    generated = torch.softmax(logits, 0).tolist()
    expected = [
        (1 - gate) * generated[word] + gate * wanted.get(word, 0) / sum(wanted.values())
        for word in range(6)
    ]
    assert result.tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1)


@pytest.mark.parametrize("name", ["show_attend_tell", "show_tell"])
def test_both_backends_give_the_same_captions_and_exact_probabilities(
    name: str, tmp_path: Path
) -> None:
    folder = save(make_model(replace(CONFIG, name=name)), tmp_path / "model")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.architecture["decoder"]["pointer"]
    pixels = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
    found = [
        Captioner(backend, VOCABULARY, checkpoint.preprocessing, checkpoint.decoding).decode(
            backend.encode(pixels)
        )
        for backend in (TorchBackend.from_checkpoint(checkpoint), OnnxBackend(folder))
    ]
    for one, other in zip(*found, strict=True):
        assert one.words == other.words
        assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-4)


def test_what_the_classifier_sees_decides_what_is_pointed_to() -> None:
    model = make_model()
    model.name_tags(VOCABULARY.words)
    pointer = model.decoder.pointer
    with torch.no_grad():
        pointer.gate.weight.zero_()
        pointer.gate.bias.fill_(9)
        pointer.query.weight.zero_()
        pointer.query.bias.zero_()
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0, 9, 0]))
        image, state = model.decoder.prepare(model.encoder(torch.randn(1, 3, SIZE, SIZE)))
        first = {name: array.unsqueeze(1) for name, array in state.items()}
        logits, *_ = model.decoder.step(image, first, torch.tensor([[1]]))
    best = {VOCABULARY.words[word] for word in logits[0, 0].topk(2).indices}
    assert best == {"dogs", "puppy"}


def test_a_pointer_is_added_to_a_trained_model(tmp_path: Path) -> None:
    plain = make_model(replace(CONFIG, pointer=False))
    folder = save(plain, tmp_path / "model", onnx=False)
    more = VOCABULARY.extended(["dog"])
    network = continued_network(str(folder), more, 0.0, pointer=True).eval()
    assert network.architecture()["decoder"]["pointer"]
    assert VOCABULARY.index("puppy") in network.decoder.pointer.words
    assert more.index("dog") in network.decoder.pointer.words
    pixels, captions = torch.randn(2, 3, SIZE, SIZE), torch.tensor([[[1, 4, 5, 2]], [[1, 8, 2, 0]]])
    with torch.no_grad():
        before = plain(pixels, captions).logits.softmax(1)
        after = network(pixels, captions).logits.exp()
    closed = 1 / (1 + math.exp(2))
    known = after[:, :-1]  # "dog" is new
    assert bool((known >= (1 - closed) * before * 0.8).all())  # a new word takes some too
    torch.testing.assert_close(after.sum(1), torch.ones(len(after)))


def test_a_pointer_requires_a_classifier_nouns_and_photos() -> None:
    with pytest.raises(ConfigError, match="the model has no classifier to take tags from"):
        make_model(tags=None).name_tags(VOCABULARY.words)
    with pytest.raises(ConfigError, match="no word of the vocabulary names a class"):
        make_model().name_tags([*SPECIAL_WORDS, "a", *"bcdefg"])
    with pytest.raises(ConfigError, match=r"decoder\.pointer is for models of photos"):
        CaptioningModel(
            EncoderConfig("timm/test_resnet"),
            CONFIG,
            image_size=SIZE,
            vocab_size=9,
            tags=TAGS,
            temporal=TemporalConfig("lrcn", frames=2),
        )
