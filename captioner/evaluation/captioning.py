"""Caption annotated images with a model."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from captioner.annotations.records import Record, check_images
from captioner.errors import DataError, ImageError
from captioner.evaluation.callbacks import Track
from captioner.evaluation.results import ImageId
from captioner.inference import Captioner, Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioning:
    """How to caption images; the defaults are those of `Captioner`.

    Attributes:
        model: A checkpoint folder, or several as an ensemble; the bundled model if None.
        backend: See `Captioner.from_pretrained`.
        device: See `Captioner.from_pretrained`.
        batch_size: See `Captioner.caption`.
        decoding: Decoding options by name, such as {"beam_size": 3}; see `Captioner.caption`.
    """

    model: Folder | Sequence[Folder] | None = None
    backend: str = "auto"
    device: str | None = None
    batch_size: int = 32
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folders(self) -> list[Folder]:
        """The checkpoint folders; none for the bundled model."""
        if self.model is None:
            return []
        return [self.model] if isinstance(self.model, (str, os.PathLike)) else list(self.model)


def caption_all(
    records: Sequence[Record], how: Captioning, *, skip: bool, track: Track
) -> tuple[dict[ImageId, str], dict[str, object]]:
    """Caption the images of records.

    Args:
        records: The images.
        how: The model and its options.
        skip: Skip unreadable images with a warning each instead of failing.
        track: See `captioner.evaluation.callbacks.Callbacks`.

    Returns:
        The captions by image id, and facts about how they were made.

    Raises:
        DataError: Images are missing, or none can be read.
        ImageError: An image cannot be read.
    """
    if not skip:
        check_images(records)
    captioner = Captioner.from_pretrained(how.model, backend=how.backend, device=how.device)
    options = captioner.decoding.changed(how.decoding)
    captions = dict(track(_stream(captioner, records, how, skip), len(records)))
    if not captions:
        raise DataError(
            f"None of the {len(records):,} annotated images can be read, so there is nothing to"
            " score; give the folder that image paths are relative to"
        )
    return captions, {
        "model": ", ".join(map(str, how.folders)) or "bundled",
        "decoding": options.to_dict(),
    }


def _stream(
    captioner: Captioner, records: Sequence[Record], how: Captioning, skip: bool
) -> Iterator[tuple[ImageId, str]]:
    """Yield each record's image id and caption."""
    sources: Iterator[Any] = (
        record.clip if captioner.frames else record.path for record in records
    )
    with closing(captioner.stream(sources, batch_size=how.batch_size, **how.decoding)) as results:
        for record, result in zip(records, results, strict=True):
            if not isinstance(result, ImageError):
                yield record.image_id, result.text
            elif skip:
                logger.warning("%s", result)
            else:
                raise result
