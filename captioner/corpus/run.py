"""caption_corpus: a corpus -> Parquet files, each image once however often the run is stopped."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from captioner.checkpoint import fingerprint, read_checkpoint
from captioner.corpus.blocks import Block, Finished
from captioner.corpus.cluster import Workers, caption_blocks, connected, stopped_by_sigterm
from captioner.corpus.inputs import plan
from captioner.corpus.output import OutputFolder, Run
from captioner.corpus.storage import absolute
from captioner.corpus.worker import Work
from captioner.decoding import Constraints, DecodingOptions


@dataclass(frozen=True)
class Corpus:
    """The images to caption.

    Attributes:
        input: A folder, a list, shards or Parquet files; a path, a pattern or a URL.
        kind: As for `captioner.corpus.inputs.plan`.
        block_size: As for `captioner.corpus.inputs.plan`.
        image_column: The column of Parquet files with the images; None for one with a common name.
    """

    input: str
    kind: str = "auto"
    block_size: int = 500
    image_column: str | None = None


@dataclass(frozen=True)
class Model:
    """The model to use; see `Captioner.from_pretrained` and `Captioner.caption`."""

    folders: Sequence[str | os.PathLike[str]] | None = None
    backend: str = "auto"
    device: str | None = None
    batch_size: int = 32
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elsewhere(self) -> list[str] | None:
        """The models, named so that other processes find them: absolute, of the hub, or bundled."""
        if self.folders is None:
            return None
        return [f if f == "bundled" else absolute(os.fspath(f)) for f in self.folders]


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        done: The number of captioned images, including those of earlier starts.
        total: The number of all images; shards are estimated from the finished ones. None while
            unknown.
        blocks: The number of finished blocks.
        all_blocks: The number of all blocks.
        began: The number of images captioned by earlier starts.
    """

    done: int
    total: int | None
    blocks: int
    all_blocks: int
    began: int


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        input: The corpus.
        output: The output folder.
        finished: Whether all blocks are finished.
        images: The number of rows in the output.
        failed: The number of rows for images that cannot be read.
        blocks: The number of finished blocks.
        all_blocks: The number of all blocks.
        damaged: Shards and Parquet files that could be read only in part, and why.
        unread: Files of blocks that could not be captioned, and why; the next start retries them.
        seconds: The duration of this start, including the start of Ray.
        images_per_second: The throughput of this start.
        worker_seconds: The time of all workers for the finished blocks, over all starts.
    """

    input: str
    output: str
    finished: bool
    images: int
    failed: int
    blocks: int
    all_blocks: int
    damaged: Mapping[str, str]
    unread: Mapping[str, str]
    seconds: float
    images_per_second: float
    worker_seconds: float


def caption_corpus(
    corpus: Corpus,
    output: str,
    model: Model | None = None,
    *,
    workers: Workers | None = None,
    address: str | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Caption a corpus, or resume where an earlier start was stopped.

    Args:
        corpus: The corpus.
        output: The output folder, a path or URL; on a cluster, one that every machine can access.
        model: The model; the bundled one by default.
        workers: The workers; one per CPU core by default.
        address: HOST:PORT of a Ray cluster's head, or "auto" on one of its machines; None uses only
            this machine. A process that is already connected to Ray keeps its connection.
        tell: Called from time to time with the progress.

    Returns:
        The summary, which is also in summary.json in the output folder.

    Raises:
        CaptionerError: The corpus, the output, the model or the cluster cannot be used.
        KeyboardInterrupt: Ctrl-C; the finished blocks and a summary are in the output.
    """
    began = time.monotonic()
    model, workers = model or Model(), workers or Workers()
    corpus = Corpus(**asdict(corpus) | {"input": absolute(corpus.input)})
    output = absolute(output)
    decoding = _check_model(model)
    blocks = plan(corpus.input, corpus.kind, block_size=corpus.block_size)
    models = [fingerprint(folder) for folder in model.folders or ["bundled"]]
    run = Run(**asdict(corpus), models=models, decoding=asdict(decoding))
    folder = OutputFolder(output, run)
    folder.start(blocks)
    state = _State(folder, corpus.input, began)
    tell(state.progress(0))
    if len(state.folder.finished) < state.all_blocks:
        work = Work(
            output=output,
            models=model.elsewhere,
            backend=model.backend,
            device=model.device,
            batch_size=model.batch_size,
            image_column=corpus.image_column,
            decoding=model.decoding,
        )
        try:
            with connected(address, workers), stopped_by_sigterm():
                caption_blocks(
                    state.open_blocks(),
                    work,
                    workers,
                    finish=folder.finish,
                    fail=state.fail,
                    tell=lambda done: tell(state.progress(done)),
                )
        finally:
            folder.save()
            folder.write_summary(asdict(state.summary()))
    summary = state.summary()
    folder.write_summary(asdict(summary))
    return summary


def _check_model(model: Model) -> DecodingOptions:
    """Validate the model and its options before anything is started."""
    first, *_ = [read_checkpoint(folder) for folder in model.folders or ["bundled"]]
    options = first.decoding.changed(model.decoding)
    Constraints.from_options(options, first.vocabulary, None)
    return options


class _State:
    """The finished blocks of a run, and what is known about the rest."""

    def __init__(self, folder: OutputFolder, source: str, began: float) -> None:
        self.folder = folder
        self.unread: dict[str, str] = {}
        self._source = source
        self._began = began
        self._before = sum(found.images for found in folder.finished.values())
        self._shown = self._before
        counts = [block.images for _, block in folder.blocks()]
        self.all_blocks = len(counts)
        self._total = None if None in counts else sum(count or 0 for count in counts)

    def open_blocks(self) -> Iterator[tuple[int, Block]]:
        """Return the blocks that are not finished."""
        for number, block in self.folder.blocks():
            if number not in self.folder.finished:
                yield number, block

    def fail(self, block: Block, reason: str) -> None:
        """Record a block that could not be captioned."""
        self.unread[block.paths[0]] = reason

    def progress(self, in_work: int) -> Progress:
        """Return the progress, given how many images of unfinished blocks are done."""
        finished = self.folder.finished
        images = sum(found.images for found in finished.values())
        total = self._total
        if total is None and finished:
            total = round(images / len(finished) * self.all_blocks)
        self._shown = max(self._shown, images + in_work)  # a lost block is captioned again
        return Progress(self._shown, total, len(finished), self.all_blocks, self._before)

    def summary(self) -> Summary:
        """Return the summary so far."""
        finished = self.folder.finished
        images = sum(found.images for found in finished.values())
        damaged = {
            block.paths[0]: damage
            for number, block in self.folder.blocks()
            if number in finished and (damage := finished[number].damage) is not None
        }
        seconds = time.monotonic() - self._began
        return Summary(
            input=self._source,
            output=self.folder.folder,
            finished=len(finished) == self.all_blocks,
            images=images,
            failed=sum(found.failed for found in finished.values()),
            blocks=len(finished),
            all_blocks=self.all_blocks,
            damaged=damaged,
            unread=self.unread,
            seconds=seconds,
            images_per_second=(images - self._before) / seconds,
            worker_seconds=sum(found.seconds for found in finished.values()),
        )


__all__ = ["Corpus", "Finished", "Model", "Progress", "Summary", "Workers", "caption_corpus"]
