"""Create the network of a run: a new one, or one from a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import encoder_weights, read_checkpoint
from captioner.errors import CaptionerError
from captioner.events.config import EventConfig
from captioner.model.captioning import CaptioningModel
from captioner.model.classifier import linear_head, stored_head
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.own_weights import read_facts
from captioner.model.pretrained import load_pretrained
from captioner.model.temporal import TemporalConfig
from captioner.tags import TagConfig
from captioner.vocabulary import PAD, START, Vocabulary

logger = logging.getLogger(__name__)


def new_network(
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    image_size: int,
    vocabulary: Vocabulary,
    word_counts: Sequence[int] | None = None,
    weights: str | None = None,
    *,
    tags: bool = False,
    temporal: TemporalConfig | None = None,
    events: EventConfig | None = None,
) -> CaptioningModel:
    """Create a network with random weights, except for pretrained ones and the output bias.

    Args:
        encoder: The encoder's architecture.
        decoder: The decoder's architecture.
        image_size: S, the side of the input in pixels.
        vocabulary: The words.
        word_counts: How often each word occurs in the training captions, in id order; initialises
            the output bias.
        weights: See `CaptioningModule`.
        tags: Whether to keep the classifier of the weights, if it fits the encoder.
        temporal: How the frames of a clip are joined; None for a model of photos.
        events: Which events it tells; None for none.
    """
    network = CaptioningModel(
        encoder,
        decoder,
        image_size=image_size,
        vocab_size=len(vocabulary),
        pad=PAD,
        temporal=temporal,
        events=events,
    )
    if word_counts is not None:
        frequencies = torch.tensor(word_counts) + 0.1
        with torch.no_grad():
            network.decoder.output.bias.copy_((frequencies / frequencies.sum()).log())
    if weights is not None:
        weights = encoder_weights(weights)
        load_pretrained(network.encoder, encoder.name, weights)
        if tags:
            _keep_classifier(network, weights)
    network.name_tags(vocabulary.words)
    return network


def _keep_classifier(network: CaptioningModel, weights: str) -> None:
    """Keep the classifier of pretrained weights, if it fits the encoder."""
    try:
        if Path(weights).is_dir():
            head, tags = stored_head(weights), read_checkpoint(weights).tags
        else:
            head = linear_head(network.configs[0].name, weights, network.encoder.image_size)
            facts = read_facts(weights)
            tags = TagConfig() if facts is None else TagConfig(facts.classes)
        network.keep_classifier(head, tags or TagConfig())
    except CaptionerError as error:
        logger.info("The model will have no tags: %s", error)
    else:
        logger.info("Keeping the encoder's classifier for tags")


def continued_network(
    folder: str,
    vocabulary: Vocabulary,
    dropout: float,
    *,
    tags: bool = True,
    pointer: bool = False,
    events: EventConfig | None = None,
) -> CaptioningModel:
    """Load the network of a checkpoint folder, or "bundled", and add new words and styles.

    Args:
        folder: The folder.
        vocabulary: Its words, followed by the new ones. Start tokens of new styles are initialised
            with START's embedding.
        dropout: The decoder's new dropout.
        tags: Whether to keep its classifier, if it has one.
        pointer: Whether to add a pointer to the decoder if it has none.
        events: Which events it tells from now on; None for none.
    """
    checkpoint = read_checkpoint(folder)
    network = TorchBackend.from_checkpoint(checkpoint).model
    words, vocab_size = len(checkpoint.vocabulary), len(vocabulary)
    if vocab_size > words:
        network.enlarge_vocabulary(vocab_size)
        starts = [index for index in map(vocabulary.start, vocabulary.styles) if index >= words]
        decoder = network.decoder
        with torch.no_grad():
            for rows in (decoder.embedding.weight, decoder.output.weight, decoder.output.bias):
                rows[starts] = rows[START].clone()
    if not tags:
        network.drop_classifier()
    if pointer and network.decoder.pointer is None:
        network.add_pointer()
    network.name_tags(vocabulary.words)
    network.tell_events(events)
    network.decoder.dropout.p = dropout
    network.configs = (network.configs[0], replace(network.configs[1], dropout=dropout))
    logger.info(
        "Continuing from %s: %d words, %d of them new",
        checkpoint.folder,
        vocab_size,
        vocab_size - words,
    )
    return network
