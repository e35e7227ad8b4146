"""Sources of captions and images for training and validation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from captioner.annotations.paths import hint
from captioner.annotations.records import Record, Split, find_missing, load_records
from captioner.data.sampling import hold_out
from captioner.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Unreadable = Literal["error", "skip"]  # the reaction to a damaged or missing image
# a sampled source uses different images for this many epochs, if there are enough
EPOCHS = 10


@dataclass(frozen=True)
class Source:
    """Images with captions to train on.

    Args:
        annotations: A COCO captions JSON, Karpathy's `dataset_*.json`, a CSV or a JSONL file; null
            disables the source.
        images: The folder of the images; null tries the usual folders, see `load_records`.
        weight: How often its images are drawn per epoch: 1 draws each once, 0.5 another half in
            each epoch, 2 each twice.
        share: Instead of `weight`: the share of an epoch's images that comes from this source.
        rank_weights: Loss weights of captions by rank: [1, 0.3, 0] gives the words of first
            captions the weight 1 and those of second captions 0.3, and drops third captions. Higher
            ranks are dropped too. Empty: all weights are 1. The rank is the integer key `rank` in
            COCO JSON, else the caption's position.
        style: The name of its captions' style; empty for the plain style.
        rank_styles: Styles by rank, with empty names for the plain style; higher ranks have
            `style`.
        words: Whether its captions add words to the vocabulary.
        captions_by: Who wrote its captions, "human" or other; empty uses the annotations' value.
        leave_out: Share of its images to leave out, to test choices on: those that `held_out` would
            choose.
        like: A text with a sentence per line: the images whose captions have nouns that are more
            frequent there are drawn more often, others less, as many in all (see
            `captioner.data.likeness`). Null draws all alike.
    """

    annotations: Path | None = None
    images: Path | None = None
    weight: float = 1.0
    share: float | None = None
    rank_weights: list[float] = field(default_factory=list)
    style: str = ""
    rank_styles: list[str] = field(default_factory=list)
    words: bool = True
    captions_by: str = ""
    leave_out: float = 0.0
    like: Path | None = None

    def check(self, name: str) -> None:
        """Check the numbers.

        Args:
            name: The name of the source in the config, for messages.

        Raises:
            ConfigError: A number is out of range.
        """
        if not 0 < self.weight < np.inf:
            raise ConfigError(f"{name}.weight is {self.weight}; expected a number above 0.")
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"{name}.share is {self.share}; expected a share from 0 to below 1.")
        if self.share is not None and self.weight != 1:
            raise ConfigError(f"{name} has a weight and a share, which cannot be combined.")
        if self.rank_weights and not (
            min(self.rank_weights) >= 0 and 0 < max(self.rank_weights) < np.inf
        ):
            raise ConfigError(
                f"{name}.rank_weights is {self.rank_weights}; expected numbers from 0 on, not"
                " all 0."
            )
        if not 0 <= self.leave_out < 1:
            raise ConfigError(
                f"{name}.leave_out is {self.leave_out}; expected a share between 0 and 1."
            )

    def weigh(self, rank: int) -> float:
        """Return the weight in the loss of captions of a rank."""
        if not self.rank_weights:
            return 1.0
        return self.rank_weights[rank - 1] if rank <= len(self.rank_weights) else 0.0

    def style_of(self, rank: int) -> str:
        """Return the style of captions of a rank."""
        return self.rank_styles[rank - 1] if rank <= len(self.rank_styles) else self.style

    def load(self, unreadable: Unreadable) -> list[Record]:
        """Load the training images, with the captions whose weight is above 0.

        Args:
            unreadable: See `load_split`.

        Raises:
            DataError: The annotations are malformed, an image is missing, all images are left out,
                or all captions have the weight 0.
        """
        assert self.annotations is not None
        records = load_split(self.annotations, self.images, "train", unreadable)
        if self.leave_out:
            records, left_out = divide(records, self.leave_out)
            if not records:
                raise DataError(
                    f"{self.annotations}: leave_out {self.leave_out} leaves none of its"
                    f" {len(left_out)} images{_of_clips(left_out)}. Add images, or lower leave_out."
                )
        counting = [record for record in map(self._only_counting, records) if record.captions]
        if not counting:
            raise DataError(
                f"{self.annotations}: all captions have the weight 0 by rank_weights"
                f" {self.rank_weights}; raise one of the weights."
            )
        return counting

    def _only_counting(self, record: Record) -> Record:
        counting = [(rank, caption) for rank, caption in record.ranked() if self.weigh(rank) > 0]
        ranks, captions = zip(*counting, strict=True) if counting else ((), ())
        by = self.captions_by or record.captions_by
        return replace(record, captions=captions, ranks=ranks, captions_by=by)


@dataclass(frozen=True)
class ValidationSource:
    """Images with captions to validate on.

    Args:
        annotations: See `Source`, but with Karpathy's split "val"; null disables the set.
        images: The folder of the images; null tries the usual folders, see `load_records`.
        style: The style in which its images are captioned; empty for `model.decoding.style`.
        weight: The weight of its scores in the mean that selects the best model.
    """

    annotations: Path | None = None
    images: Path | None = None
    style: str = ""
    weight: float = 1.0


def load_split(
    annotations: Path, images: Path | None, split: Split, unreadable: Unreadable
) -> list[Record]:
    """Load the records of a split whose images exist.

    Args:
        annotations: The annotation file.
        images: The folder of the images; None looks for it.
        split: The split, for files with splits; other files are loaded whole.
        unreadable: Whether a missing image is an "error", or logged and skipped ("skip").

    Raises:
        DataError: The annotations are malformed, an image is missing, or all of them are.
    """
    records = load_records(annotations, images, split)
    missing = find_missing(records)
    if missing and (unreadable == "error" or len(missing) == len(records)):
        raise DataError(
            f"{annotations}: {len(missing)} of {len(records)} images are missing, for example"
            f" {missing[0].path}{hint(missing[0].path)}. Check the image folder, or skip missing"
            " images with data.unreadable=skip."
        )
    for record in missing:
        logger.warning("Skipped: %s: no such file", record.path)
    gone = {record.image_id for record in missing}
    return [record for record in records if record.image_id not in gone]


def divide(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Return the remaining records and those that `hold_out` holds out, both in order.

    The parts of a clip stay together, as they look alike.
    """
    out = hold_out([record.whole_id for record in records], share)
    stay, held = (
        [record for i, record in enumerate(records) if (i in out) is side] for side in (False, True)
    )
    return stay, held


def hold_out_validation(
    annotations: Path, records: list[Record], share: float
) -> tuple[list[Record], list[Record]]:
    """Divide a training split into training and validation records.

    Raises:
        DataError: No training records would be left.
    """
    train, val = divide(records, share)
    if not train:
        raise DataError(
            f"{annotations}: too few images ({len(records)}) to hold some out for validation"
            f"{_of_clips(records)}. Add images, lower data.held_out, or set data.val."
        )
    logger.info(
        "%s: holding out %d of %d images for validation", annotations, len(val), len(records)
    )
    return train, val


def _of_clips(records: Sequence[Record]) -> str:
    clips = {record.whole_id for record in records if record.whole_id != record.image_id}
    return f", as all parts of a clip stay together (clips: {len(clips)})" if clips else ""


def images_an_epoch(sources: Sequence[Source], counts: Sequence[int]) -> list[int]:
    """Compute the number of images of each source per epoch.

    Args:
        sources: The sources.
        counts: The number of images of each.

    Raises:
        ConfigError: The shares add up to 1 or more, or no source has a weight.
    """
    weighed = [
        max(1, round(source.weight * count)) if source.share is None else 0
        for source, count in zip(sources, counts, strict=True)
    ]
    shares = [source.share or 0.0 for source in sources]
    if sum(shares) >= 1 or not sum(weighed):
        raise ConfigError(
            f"The sources' shares add up to {sum(shares):g}; expected less than 1, and at least one"
            " source with a weight."
        )
    whole = sum(weighed) / (1 - sum(shares))
    return [
        number if source.share is None else min(count, round(source.share * whole))
        for source, number, count in zip(sources, weighed, counts, strict=True)
    ]


def only_as_many(records: list[Record], an_epoch: int, seed: int) -> list[Record]:
    """Limit a source to the images of a few epochs, so that fewer are encoded.

    Args:
        records: All images of the source.
        an_epoch: The number of its images per epoch.
        seed: The random seed of the choice.
    """
    count = min(len(records), EPOCHS * an_epoch)
    if count == len(records):
        return records
    chosen = np.random.default_rng(seed).choice(len(records), count, replace=False)
    return [records[index] for index in sorted(chosen)]


class UnreadableImages:
    """Report unreadable images, once each, or fail on the first.

    Args:
        reaction: "error" fails on the first; "skip" logs a warning for each.
    """

    def __init__(self, reaction: Unreadable) -> None:
        self.reaction = reaction
        self._named: set[str] = set()

    def report(self, sentences: Sequence[str]) -> None:
        """Report why images are unreadable.

        Args:
            sentences: One for each image; it begins with the image's path and a colon.

        Raises:
            DataError: There are unreadable images, and the reaction is "error".
        """
        for sentence in sentences:
            if self.reaction == "error":
                raise DataError(
                    f"{sentence}. Repair or remove it, or skip such images with"
                    " data.unreadable=skip."
                )
            path = sentence.partition(": ")[0]  # report an image once, whatever the reason
            if path not in self._named:
                logger.warning("Skipped: %s", sentence)
                self._named.add(path)
