"""The demo, served to a test module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner.inference import Captioner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bundled() -> Captioner:
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def url(bundled: Captioner) -> Iterator[str]:
    """The address of the bundled model's demo."""
    pytest.importorskip("gradio")
    from captioner.checkpoint import describe, read_checkpoint
    from captioner.demo.card import read_card
    from captioner.demo.server import find_examples, serving

    card = read_card(describe(read_checkpoint()))
    with serving(bundled, card=card, examples=find_examples()) as address:
        yield address


@pytest.fixture(scope="session")
def without_attention() -> Captioner:
    """A tiny show_tell network, which looks at a photo as a whole."""
    import torch

    from captioner.backends.torch import TorchBackend
    from captioner.decoding import DecodingOptions
    from captioner.model.captioning import CaptioningModel
    from captioner.model.decoder import DecoderConfig
    from captioner.model.encoder import EncoderConfig
    from captioner.preprocessing import Preprocessing
    from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

    torch.manual_seed(1)
    vocabulary = Vocabulary([*SPECIAL_WORDS, "a", "dog", "'s", "ball", "<b>grass</b>"])
    decoder = DecoderConfig(name="show_tell", hidden_size=8, embedding_size=8)
    model = CaptioningModel(
        EncoderConfig("squeezenet1_1"), decoder, image_size=64, vocab_size=len(vocabulary)
    )
    options = DecodingOptions(beam_size=3, max_length=6, min_length=4)
    return Captioner(TorchBackend(model), vocabulary, Preprocessing(size=64), options)
