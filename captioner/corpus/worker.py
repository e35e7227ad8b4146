"""A worker: holds a model, captions blocks."""

import platform
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioner.corpus.blocks import Block, Finished
from captioner.corpus.output import write_part
from captioner.corpus.reading import CorpusImage, DamageError, read_block
from captioner.corpus.storage import persistently, said
from captioner.errors import DataError, ImageError
from captioner.inference import Caption, Captioner


@dataclass(frozen=True)
class Work:
    """The job that all workers of a run share.

    Attributes:
        output: The output folder, a path or URL that every worker can access.
        models: The checkpoint folders; None for the bundled model.
        backend: As for `Captioner.from_pretrained`.
        device: As for `Captioner.from_pretrained`.
        batch_size: As for `Captioner.caption`.
        image_column: The column of tables with the images; None for one with a common name.
        decoding: Decoding options that differ from the model's.
    """

    output: str
    models: Sequence[str] | None
    backend: str
    device: str | None
    batch_size: int
    image_column: str | None
    decoding: Mapping[str, Any]


class Worker:
    """Holds a model and captions one block after the other, as a Ray actor or a plain object.

    Args:
        work: The job.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._captioner: Captioner | None = None
        self._done = 0

    def ready(self) -> None:
        """Load the model; not in `__init__`, whose errors Ray makes unreadable.

        Raises:
            CheckpointError: The model is not on this machine, or is damaged.
        """
        work = self._work
        self._captioner = Captioner.from_pretrained(
            work.models, backend=work.backend, device=work.device
        )

    def done(self) -> int:
        """Return how many images of the current block are done."""
        return self._done

    def caption(self, number: int, block: Block) -> Finished:
        """Caption a block and write its part.

        Args:
            number: The block's number.
            block: The block.

        Raises:
            ConfigError: A table has no column of images.
            DataError: The part cannot be written.
            OSError: The block's file cannot be opened or read.
        """
        began, self._done = time.monotonic(), 0
        images = _Images(read_block(block, self._work.image_column))
        rows = []
        for image, result in self._results(images, block.first):
            rows.append(_row(image, result))
            self._done += 1
        failed = sum(row[-1] is not None for row in rows)
        found = Finished(len(rows), failed, time.monotonic() - began, images.damage)
        self._write(number, rows, found)
        self._done = 0
        return found

    def _write(self, number: int, rows: Sequence[Sequence[Any]], found: Finished) -> None:
        try:
            persistently(lambda: write_part(self._work.output, number, rows, found))
        except Exception as error:  # file system clients share no other base class
            raise DataError(
                f"{self._work.output} cannot be written on {platform.node()} ({said(error)})."
                " All machines of a cluster must access it: use a shared folder or a URL."
            ) from error

    def _results(
        self, images: "_Images", first: int
    ) -> Iterator[tuple[CorpusImage, Caption | ImageError]]:
        """Yield each image with its caption or its error, in order."""
        work = self._work
        if self._captioner is None:
            self.ready()
        assert self._captioner is not None
        for result in self._captioner.stream(
            images.sources(), batch_size=work.batch_size, first_image=first, **work.decoding
        ):
            yield from images.without_source()
            yield images.waiting.popleft(), result
        yield from images.without_source()


class _Images:
    """The images of a block that are read but not yet captioned."""

    def __init__(self, images: Iterator[CorpusImage]) -> None:
        self.waiting: deque[CorpusImage] = deque()
        self.damage: str | None = None
        self._images = images

    def sources(self) -> Iterator[str | bytes]:
        """Yield the images that can be captioned, up to the end or the damage of a file."""
        try:
            for image in self._images:
                self.waiting.append(image)
                if not isinstance(image.source, ImageError):
                    yield image.source
        except DamageError as error:
            self.damage = str(error)

    def without_source(self) -> Iterator[tuple[CorpusImage, ImageError]]:
        """Yield the next images that have an error instead of a source."""
        while self.waiting and isinstance(self.waiting[0].source, ImageError):
            image = self.waiting.popleft()
            assert isinstance(image.source, ImageError)
            yield image, image.source


def _row(image: CorpusImage, result: Caption | ImageError) -> tuple[Any, ...]:
    """Return an image's row of the output."""
    place = _text(image.path), None if image.key is None else _text(image.key)
    if isinstance(result, ImageError):
        return *place, None, None, None, _text(result.reason)
    return *place, result.text, result.log_prob, result.confidence, None


def _text(name: str) -> str:
    """Escape bytes of a file name that are not UTF-8, which Parquet's strings require."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
