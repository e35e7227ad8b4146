"""Where captions and images come from: a source's records, and which of them are held out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from captioner.annotations.paths import hint
from captioner.annotations.records import Record, Split, find_missing, load_records
from captioner.data.sampling import Replay, hold_out
from captioner.errors import DataError

logger = logging.getLogger(__name__)

Unreadable = Literal["error", "skip"]  # what a damaged or missing image does
REPLAYED_EPOCHS = 10  # so many epochs have all different earlier images, where there are enough


@dataclass(frozen=True)
class Source:
    """Annotations, and the folder of their images.

    Args:
        annotations: A COCO captions JSON, Karpathy's `dataset_*.json`, a CSV or a JSONL file.
        images: The folder; None looks where data sets have it, see `load_records`.
    """

    annotations: Path
    images: Path | None = None

    def load(self, split: Split, unreadable: Unreadable) -> list[Record]:
        """The records of a split whose images are there.

        Args:
            split: Which split, of Karpathy's files; others are taken whole.
            unreadable: Whether a missing image is an "error", or named and left out ("skip").

        Raises:
            DataError: The annotations cannot be used; an image is missing, or all of them are.
        """
        records = load_records(self.annotations, self.images, split)
        missing = find_missing(records)
        if missing and (unreadable == "error" or len(missing) == len(records)):
            raise DataError(
                f"{self.annotations}: {len(missing)} of its {len(records)} images are missing, {missing[0].path} "
                f"first{hint(missing[0].path)}. Check the images folder, or leave them out with data.unreadable=skip."
            )
        for record in missing:
            logger.warning("Skipped: %s: no such file", record.path)
        gone = {record.image_id for record in missing}
        return [record for record in records if record.image_id not in gone]


def divide(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """The records that stay, and those that `hold_out` holds out, both in their order."""
    out = hold_out([record.image_id for record in records], share)
    stay, held = ([record for i, record in enumerate(records) if (i in out) is side] for side in (False, True))
    return stay, held


def earlier_records(replay: Replay, fresh: int, unreadable: Unreadable, *, seed: int) -> list[Record]:
    """Earlier data: as much as a few epochs need, so that few photos don't make thousands be encoded.

    Args:
        replay: Where they are; none are taken where it names no annotations.
        fresh: How many new images they are mixed with.
        unreadable: As for `Source.load`.
        seed: Of the choice.

    Raises:
        DataError: The annotations cannot be used; an image is missing.
    """
    if replay.annotations is None:
        return []
    records = Source(replay.annotations, replay.images).load("train", unreadable)
    count = min(len(records), REPLAYED_EPOCHS * replay.beside(fresh))
    chosen = np.random.default_rng(seed).choice(len(records), count, replace=False)
    logger.info("%s: %d of its %d images are replayed", replay.annotations, count, len(records))
    return [records[index] for index in sorted(chosen)]


class UnreadableImages:
    """Names the images that could not be read, once each; or refuses them.

    Args:
        reaction: "error" refuses the first; "skip" names each.
    """

    def __init__(self, reaction: Unreadable) -> None:
        self.reaction = reaction
        self._named: set[str] = set()

    def report(self, sentences: Sequence[str]) -> None:
        """Tell what was wrong with some images, a sentence each, which begins with the image's path.

        Raises:
            DataError: There are some, and they are refused.
        """
        for sentence in sentences:
            if self.reaction == "error":
                raise DataError(f"{sentence}. Mend or remove it, or leave such images out with data.unreadable=skip.")
            path = sentence.partition(": ")[0]  # once an image, in whatever way it is met again
            if path not in self._named:
                logger.warning("Skipped: %s", sentence)
                self._named.add(path)
