"""Encoders that tests share."""

import copy

import pytest

from captioner.model.encoder import Encoder, EncoderConfig

SIZE = 64


@pytest.fixture(scope="module")
def original() -> Encoder:
    """A randomly initialized encoder. Not to be changed."""
    return Encoder(EncoderConfig("resnet18"), SIZE)


@pytest.fixture
def encoder(original: Encoder) -> Encoder:
    return copy.deepcopy(original)
