"""The training and validation data of a run: the records of all sources, concatenated."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.records import Record
from captioner.data.likeness import likeness, read_sentences
from captioner.data.sampling import Draws
from captioner.data.sources import (
    Source,
    Unreadable,
    ValidationSource,
    hold_out_validation,
    images_an_epoch,
    load_split,
    only_as_many,
)
from captioner.errors import ConfigError
from captioner.tokenizer import tokenize
from captioner.vocabulary import is_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSplit:
    """The images of all sources, concatenated in the order of the sources.

    Attributes:
        records: The images with the captions whose weight is above 0.
        weights: The weight in the loss of each caption of each image.
        styles: The style of each caption of each image.
        brings_words: Whether an image's captions add words to the vocabulary.
        draws: How often each source's images are drawn.
    """

    records: list[Record]
    weights: list[tuple[float, ...]]
    styles: list[tuple[str, ...]]
    brings_words: list[bool]
    draws: list[Draws]

    @property
    def captions_by(self) -> Counter[str]:
        """Return the number of captions by each author: "human" or other, empty if unknown."""
        written: Counter[str] = Counter()
        for record in self.records:
            written[record.captions_by] += len(record.captions)
        return written


@dataclass(frozen=True)
class ValidationSet:
    """A validation set.

    Attributes:
        name: Its name in the log; empty for the only set.
        records: The images.
        style: The style of their captions; empty for the model's default.
        weight: The weight of its scores in the mean over all sets.
    """

    name: str
    records: list[Record]
    style: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The origin of a run's data, from its config.

    Args:
        sources: By their names in the config, such as "data.sources.coco".
        validation: The validation sets by name; the name of a single set is empty.
        held_out: Without validation sets, the share of the first source's images to hold out.
        unreadable: The reaction to a missing image.
        seed: The random seed of the choice of images from a source with more than needed.
    """

    sources: Mapping[str, Source]
    validation: Mapping[str, ValidationSource]
    held_out: float
    unreadable: Unreadable
    seed: int

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            source.check(name)
        for name, valued in self.validation.items():
            if name and not is_name(name):
                raise ConfigError(
                    f"Invalid name of a validation set: {name!r}; expected letters, digits, dots, _"
                    " and -."
                )
            if not 0 <= valued.weight < float("inf"):
                raise ConfigError(
                    f"data.validation.{name}.weight is {valued.weight}; expected 0 or more."
                )
        if not self.sources:
            raise ConfigError("No training data; set annotations in data.train or data.sources.")
        if self.validation and not sum(valued.weight for valued in self.validation.values()):
            raise ConfigError(
                "All sets of data.validation have the weight 0; expected at least one above 0."
            )

    @property
    def first(self) -> Path:
        """The annotations of the first source."""
        annotations = next(iter(self.sources.values())).annotations
        assert annotations is not None
        return annotations

    def load(self) -> tuple[TrainingSplit, list[ValidationSet]]:
        """Read all annotations.

        Raises:
            ConfigError: The sources' shares add up to 1 or more.
            DataError: Annotations are malformed, or an image is missing.
        """
        loaded = [source.load(self.unreadable) for source in self.sources.values()]
        if self.validation:
            sets = [self._load_set(name, source) for name, source in self.validation.items()]
        else:
            loaded[0], held = hold_out_validation(self.first, loaded[0], self.held_out)
            sets = [ValidationSet("", held)]
        return self._put_together(loaded), sets

    def _load_set(self, name: str, source: ValidationSource) -> ValidationSet:
        assert source.annotations is not None
        records = load_split(source.annotations, source.images, "val", self.unreadable)
        return ValidationSet(name, records, source.style, source.weight)

    def _put_together(self, loaded: Sequence[list[Record]]) -> TrainingSplit:
        split = TrainingSplit([], [], [], [], [])
        sources = list(self.sources.values())
        numbers = images_an_epoch(sources, list(map(len, loaded)))
        for source, all_of_it, an_epoch in zip(sources, loaded, numbers, strict=True):
            records = only_as_many(all_of_it, an_epoch, self.seed)
            if len(sources) > 1:
                logger.info(
                    "%s: training on %d of %d images, %d in each epoch",
                    *(source.annotations, len(records), len(all_of_it), an_epoch),
                )
            split.draws.append(Draws(len(records), an_epoch, _weights(records, source)))
            split.records.extend(records)
            for record in records:
                ranks = [rank for rank, _ in record.ranked()]
                split.weights.append(tuple(map(source.weigh, ranks)))
                split.styles.append(tuple(map(source.style_of, ranks)))
                split.brings_words.append(source.words)
        return split


def _weights(records: Sequence[Record], source: Source) -> NDArray[np.float64] | None:
    """Return how often to draw each image of a source; None to draw all alike."""
    if source.like is None or not records:
        return None
    text = read_sentences(source.like)
    weights = likeness(
        [[tokenize(caption) for caption in record.captions] for record in records], text
    )
    logger.info(
        "%s: drawing images as in %s, %.2f to %.2f times as often as on average",
        *(source.annotations, source.like, weights.min(), weights.max()),
    )
    return weights


def plan_data(
    train: Source,
    sources: Mapping[str, Source],
    val: ValidationSource,
    validation: Mapping[str, ValidationSource],
    *,
    held_out: float,
    unreadable: Unreadable,
    seed: int,
) -> Plan:
    """Combine the simple form of a config, one source and one set, with the named ones.

    Args:
        train: `data.train`, without annotations if there is none.
        sources: `data.sources`.
        val: `data.val`, without annotations if there is none.
        validation: `data.validation`.
        held_out: See `Plan`.
        unreadable: See `Plan`.
        seed: See `Plan`.

    Raises:
        ConfigError: They cannot be combined, or a number is out of range.
    """
    named = {
        f"data.sources.{name}": source
        for name, source in sources.items()
        if source.annotations is not None
    }
    sets = {name: source for name, source in validation.items() if source.annotations is not None}
    off = [f"data.sources.{name}" for name in sources if f"data.sources.{name}" not in named]
    off += [f"data.validation.{name}" for name in validation if name not in sets]
    if off:  # on purpose, or the name is misspelt
        logger.info("Left out, as they have no annotations: %s", ", ".join(off))
    if train.annotations is not None:
        named = {"data.train": train, **named}
    if val.annotations is not None and sets:
        raise ConfigError(
            "data.val and data.validation cannot be combined; list all sets in data.validation."
        )
    if val.annotations is not None:
        sets = {"": val}
    if not sets and train.annotations is None and named:
        raise ConfigError("No validation data; set annotations in data.val or data.validation.")
    return Plan(named, sets, held_out, unreadable, seed)
