"""`captioner prepare-coco`: download COCO into a folder."""

import logging
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.parser import Add
from captioner.commands.terminal import report
from captioner.errors import CaptionerError, ConfigError

if TYPE_CHECKING:
    from captioner.datasets.download import Report


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "prepare-coco",
        usage="captioner prepare-coco [OPTIONS]",
        help="Download and unpack the COCO data set.",
        description="""\
Download and unpack COCO into data/coco: images, captions, and Karpathy's splits of COCO 2014.

An interrupted download resumes when the command is run again. If all files are there it does
nothing. COCO 2014 requires 27.4 GB of free disk space during the download and 20.6 GB
afterwards; COCO 2017 requires 39.0 GB and 20.5 GB.""",
        epilog="""\
examples:
  captioner prepare-coco
  captioner prepare-coco --year 2017 --only annotations

exit status: 0 all files are there; 1 a download failed; 2 wrong usage""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--year",
        type=int,
        choices=(2014, 2017),
        default=2014,
        metavar="YEAR",
        help="2014 or 2017. [default: 2014]",
    )
    parser.add_argument(
        "--only",
        choices=("annotations", "images"),
        metavar="PART",
        help="Download only annotations or only images.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("data/coco"),
        metavar="DIR",
        help="Target folder. [default: %(default)s]",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=(
            "Another server, with zips/train2014.zip, annotations/annotations_trainval2014.zip,"
            " caption_datasets.zip and so on below this URL; file:// works too."
        ),
    )


def run(options: Namespace) -> int:
    """Download and unpack COCO."""
    from captioner.datasets.coco import COCO, prepare_coco

    if options.mirror and not options.mirror.startswith(("https://", "http://", "file://")):
        raise ConfigError(
            f"--mirror {options.mirror}: expected a URL that begins with https://, http:// or"
            " file://."
        )
    archives = [archive for archive in COCO[options.year] if options.only in (None, archive.kind)]
    try:
        with _progress() as progress:
            prepare_coco(options.folder, archives, mirror=options.mirror, report=progress)
    except (CaptionerError, OSError) as error:
        report(str(error))
        return 1
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to resume.", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _progress() -> Iterator["Report"]:
    """Show progress bars on stderr if it is a terminal, else lines; log messages go there too."""
    if not sys.stderr.isatty():
        from captioner.datasets.download import log_progress

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        yield log_progress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text, columns = (
        TextColumn("{task.description}"),
        (BarColumn(), DownloadColumn(), TransferSpeedColumn()),
    )
    with Progress(
        text, *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        logging.basicConfig(
            level=logging.INFO, format="%(message)s"
        )  # bound now, so that log lines appear above the bars
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, completed=done)
            progress.update(tasks[what], completed=done, visible=done < total)

        yield show
