"""Bring COCO into data/coco: images, captions, and Karpathy's splits of COCO 2014.

It may be interrupted: the same call goes on where it stopped. Once all is there it does nothing. COCO 2014 needs 27.4
GB of free disk on the way, and 20.6 GB stay; COCO 2017 needs 39.0 GB, and 20.5 GB stay.

exit status: 0 all is there; 1 something could not be brought; 2 the call was wrong
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.datasets.coco import COCO, prepare_coco
from captioner.datasets.download import Report, log_progress
from captioner.errors import CaptionerError


def main(argv: Sequence[str] | None = None) -> int:
    """Bring COCO; the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.mirror and not options.mirror.startswith(("https://", "http://", "file://")):
        parser.error(f"--mirror {options.mirror}: expected a URL that begins with https://, http:// or file://")
    archives = [archive for archive in COCO[options.year] if options.only in (None, archive.kind)]
    try:
        with _progress() as report:
            prepare_coco(options.folder, archives, mirror=options.mirror, report=report)
    except (CaptionerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: the same call goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _progress() -> Iterator[Report]:
    """Bars on stderr if it is a terminal, else lines; what is logged goes there, too."""
    if not sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        yield log_progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    text, columns = TextColumn("{task.description}"), (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(text, *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        logging.basicConfig(level=logging.INFO, format="%(message)s")  # now, so that lines go above the bars
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, completed=done)
            progress.update(tasks[what], completed=done, visible=done < total)

        yield report


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    first, _, rest = (__doc__ or "").partition("\n\nexit status")
    parser = argparse.ArgumentParser(description=first, epilog=f"exit status{rest}", formatter_class=layout)
    parser.add_argument("--year", type=int, choices=sorted(COCO), default=2014, help="which COCO [2014]")
    parser.add_argument("--only", choices=["annotations", "images"], help="leave the other out")
    parser.add_argument("--folder", type=Path, metavar="DIR", default=Path("data/coco"), help="where to [data/coco]")
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="a server that has zips/train2014.zip, annotations/annotations_trainval2014.zip, caption_datasets.zip and "
        "so on below this URL; file:// works, too",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
