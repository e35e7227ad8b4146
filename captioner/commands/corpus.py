"""`captioner corpus`: a corpus of any size -> Parquet files, on one machine or a Ray cluster."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import Add
from captioner.commands.terminal import note, report, show_warnings
from captioner.errors import MissingExtraError
from captioner.progress import ProgressLines

if TYPE_CHECKING:
    from captioner.corpus.run import Progress, Summary

_NAMED = 20  # files to list on stderr; summary.json lists all
_KINDS = ("auto", "images", "list", "shards", "parquet")  # as in captioner.corpus.inputs


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "corpus",
        usage="captioner corpus INPUT --output DIR [OPTIONS]",
        operands=("INPUT", 1, 1),
        help="Caption a corpus of any size, on one machine or a Ray cluster.",
        description="""\
Caption a corpus and write Parquet files: path, key, caption, log_prob, confidence, error.

INPUT is a folder of images; a text file with one path or URL per line; a folder, a
pattern or a file of WebDataset shards (.tar) or of Parquet files with the bytes of images.
All file systems that fsspec supports work: s3://, gs://, hdfs://, https://.

Run the same command again to resume where it was stopped; no image is captioned twice. A
damaged image gets a row with its error; a truncated shard is captioned up to the damage.""",
        epilog="""\
examples:
  captioner corpus photos/ --output captions
  captioner corpus urls.txt --output s3://bucket/captions
  captioner corpus 's3://bucket/shards/*.tar' --output /shared/captions --address auto""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output",
        type=str,
        required=True,
        metavar="DIR",
        help="Output folder, a path or URL; new, or to resume. [required]",
    )
    corpus = parser.add_argument_group("corpus")
    corpus.add_argument(
        "--input-kind",
        choices=_KINDS,
        default="auto",
        metavar="KIND",
        help="images, list, shards or parquet. [default: detected]",
    )
    corpus.add_argument(
        "--image-column",
        metavar="NAME",
        help="Column of Parquet files with the images. [default: a common name]",
    )
    corpus.add_argument(
        "--block-size",
        type=int,
        default=500,
        metavar="N",
        help="Number of images in a block, the unit of work. [default: 500]",
    )
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="Head of a Ray cluster; auto on one of its machines. [default: only this machine]",
    )
    cluster.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="Number of workers; each loads the model. [default: as many as fit]",
    )
    cluster.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="CPU cores per worker. [default: 1]"
    )
    cluster.add_argument(
        "--gpus",
        type=float,
        metavar="N",
        help="GPUs per worker, or a fraction. [default: 1 with --device cuda, else 0]",
    )
    add_model(parser)
    add_decoding(parser, without=["alternatives"])


def run(options: Namespace) -> int:
    """Caption a corpus."""
    show_warnings()
    try:
        from captioner.corpus.run import Corpus, Model, Workers, caption_corpus
    except ModuleNotFoundError as error:
        raise MissingExtraError("Captioning a corpus", "ray") from error
    (source,) = options.operands
    models: list[Path] | None = options.model
    on_gpu = (options.device or "").startswith("cuda")
    try:
        with _progress() as show:
            summary = caption_corpus(
                Corpus(source, options.input_kind, options.block_size, options.image_column),
                options.output,
                Model(
                    models,
                    options.backend,
                    options.device,
                    options.batch_size,
                    given(options, *(name for name in DECODING if name != "alternatives")),
                ),
                workers=Workers(
                    options.workers,
                    options.cpus,
                    float(on_gpu) if options.gpus is None else options.gpus,
                ),
                address=options.address,
                tell=show,
            )
    except (KeyboardInterrupt, SystemExit):
        note(f"Stopped. Finished blocks are in {options.output}; run the command again to resume.")
        raise
    return _tell_end(summary)


def _tell_end(summary: "Summary") -> int:
    """Print the summary; return the exit status."""
    for what, files in (("captioned only in part", summary.damaged), ("", summary.unread)):
        for path, reason in list(files.items())[:_NAMED]:
            report(f"{path}: {f'{what}, ' if what else ''}{reason}")
        if len(files) > _NAMED:
            report(f"and {len(files) - _NAMED:,} more files; see summary.json")
    if summary.failed:
        report(f"{summary.failed:,} images cannot be read; see the column error of their rows")
    if summary.unread:
        report("Not all blocks could be captioned; run the command again to retry them.")
    print(
        f"{summary.images - summary.failed:,} captions of {summary.images:,} images are in"
        f" {summary.output} ({summary.images_per_second:.1f} images/s)"
    )
    return 1 if summary.failed or summary.damaged or summary.unread else 0


@contextmanager
def _progress() -> Iterator[Callable[["Progress"], None]]:
    """Show the progress: as a bar on stderr, or as one line per minute if it is not a terminal."""
    began = time.monotonic()

    def rate(progress: "Progress") -> float:
        return (progress.done - progress.began) / max(time.monotonic() - began, 1e-3)

    if not sys.stderr.isatty():
        lines: ProgressLines | None = None

        def write(progress: "Progress") -> None:
            nonlocal lines
            lines = lines or ProgressLines("Done", None, "images", note, done=progress.began)
            lines.total = progress.total
            lines.at(progress.done, f", {rate(progress):.1f} images/s")

        yield write
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("starting Ray", total=None)

        def draw(progress: "Progress") -> None:
            of = "" if progress.total is None else f" of {progress.total:,}"
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=f"{progress.done:,}{of} images, {rate(progress):.1f} images/s",
            )

        yield draw
