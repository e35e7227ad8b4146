"""Tiny decoders with random weights, and captions to run them on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captioner.model.decoder import DECODERS, Arrays, Decoder, DecoderConfig, TeacherForced
from captioner.tags.words import ClassWords
from captioner.vocabulary import PAD

B, L, D, V = 4, 5, 6, 17
TINY = DecoderConfig(hidden_size=7, embedding_size=5, context_size=6, attention_size=4, dropout=0.0)

# (B, K, T): neither images nor captions in order of their length, and rows without a caption in
# every place.
CAPTIONS = torch.tensor(
    [
        [[1, 5, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 4, 6, 9, 2, 0]],
        [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[1, 7, 8, 9, 3, 2], [1, 8, 8, 2, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0], [1, 16, 10, 2, 0, 0]],
    ]
)

Place = tuple[int, int, int]  # step, image, caption

POINTER = " with a pointer"

both = pytest.mark.parametrize("name", [*DECODERS, *(name + POINTER for name in DECODERS)])

# Two words that name three of four classes: classes 0 and 1 are both a 4, class 0 is a 5 too.
NAMED = ClassWords(
    words=np.array([4, 5]), classes=np.array([0, 0, 1, 3]), places=np.array([0, 1, 0, 1])
)


def make_decoder(name: str, size: int = D, vocab_size: int = V, **changes: object) -> Decoder:
    torch.manual_seed(7)
    config = replace(TINY, name=name.removesuffix(POINTER), **changes)
    decoder = DECODERS[config.name](config, size, vocab_size, PAD)
    if name.endswith(POINTER):
        decoder.add_pointer()
        decoder.pointer.aim(nn.Linear(size, 4), NAMED)
    enlarge(decoder)
    return decoder.eval()


def enlarge(module: nn.Module, factor: float = 2) -> None:
    """Multiply random weights, so that the module has opinions."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


def make_features() -> Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(0))


def places_of(captions: Tensor) -> list[Place]:
    """Where there is a word to predict, in the order that teacher forcing promises."""
    images, rows, length = captions.shape
    every = [(t, b, k) for t in range(length - 1) for b in range(images) for k in range(rows)]
    return [(t, b, k) for t, b, k in every if captions[b, k, t + 1] != PAD]


def by_place(output: TeacherForced, captions: Tensor) -> dict[Place, Tensor]:
    """The log-odds (V,) of teacher forcing by place."""
    return dict(zip(places_of(captions), output.logits, strict=True))


def first_state(state: Arrays) -> Arrays:
    return {name: array.unsqueeze(1) for name, array in state.items()}  # (B, H) -> (B, 1, H)
