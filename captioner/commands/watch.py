"""`captioner watch`: caption new photos in a folder."""

import errno
import logging
import os
import sys
import time
from argparse import ArgumentTypeError, Namespace
from contextlib import closing, nullcontext
from functools import cache, partial
from itertools import count
from pathlib import Path

from captioner.commands.caption import CSV, ROWS, describe_run, open_captions_file, rows_of
from captioner.commands.captions_file import CaptionsFile, check_output, format_of
from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import Add, file_path
from captioner.commands.photo_library import (
    add_photo_library,
    check_photo_library,
    photo_stores,
    save_in,
)
from captioner.commands.terminal import (
    check_stdout,
    note,
    print_odd_characters,
    report,
    show_warnings,
)
from captioner.errors import ConfigError, ImageError
from captioner.library.tables import csv_header

_RETRY = 60  # scans, 5 minutes by default, until captions that could not be saved are tried again
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, a quota, the largest file


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "watch",
        usage="captioner watch FOLDER --xmp|--embed|--output FILE [OPTIONS]",
        operands=("FOLDER", 1, 1),
        help="Caption new photos in a folder.",
        description="""\
Caption the photos in FOLDER and its subfolders, and new ones as they arrive, until Ctrl-C or
SIGTERM. A photo is read once its file has stopped changing. Running the same command again
resumes.""",
        epilog="""\
examples:
  captioner watch incoming/ --xmp
  captioner watch incoming/ --output captions.tsv --interval 30""",
    )
    parser.set_defaults(run=run, json=False, summary=False, min_confidence=None)
    parser.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help="Write captions to FILE as they are made, or resume it.",
    )
    parser.add_argument(
        "--format",
        choices=ROWS,
        metavar="FORMAT",
        help=f"{', '.join(ROWS[:-1])} or {ROWS[-1]}. [default: what the suffix of --output says,"
        " otherwise text]",
    )
    parser.add_argument(
        "--tags",
        action="store_true",
        help="Write tags too, nouns for what is in the photo.",
    )
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="Time between two scans of the folder; a file that hasn't changed since the last scan"
        " is complete. [default: 5]",
    )
    add_photo_library(parser)
    add_model(parser)
    add_decoding(parser)


def run(options: Namespace) -> int:
    """Caption new photos until a signal."""
    show_warnings()
    print_odd_characters(names=True)
    _check(options)
    from captioner.inference import NO_TAGS, Captioner
    from captioner.library.watching import Arrivals

    captioner = Captioner.from_pretrained(
        options.model, backend=options.backend, device=options.device
    )
    if options.tags and captioner.tags is None:
        raise ConfigError(NO_TAGS)
    described = cache(partial(describe_run, options, captioner, several=True))
    file = (
        None
        if options.output is None
        else open_captions_file(options.output, described(), options.operands)
    )
    stores = photo_stores(options, described)

    def is_done(name: str) -> bool:
        return (file is None or name in file) and all(store.holds(name) for store in stores)

    arrivals = Arrivals(Path(*options.operands), is_done)
    decoding = given(options, "batch_size", *DECODING)
    captioner.stream((), **decoding)  # checks the options before a file is written
    logging.getLogger("captioner.images.folders").addFilter(_Once())
    if file is None and options.format == CSV:
        print(csv_header(), end="", flush=True)
    with nullcontext() if file is None else file:
        note(f"Watching {arrivals.folder} (Ctrl-C stops it)")
        unsaved: list[Path] = []
        scans = count(1)
        while True:
            if next(scans) % _RETRY == 0:
                arrivals.again(unsaved)
                unsaved.clear()
            photos = arrivals.look()
            first = len(file) if file is not None else 0
            with closing(captioner.stream(photos, first_image=first, **decoding)) as results:
                for path, result in zip(photos, results, strict=True):
                    photo = str(path)
                    if isinstance(result, ImageError):
                        report(f"{photo}: {result.reason}")
                        continue
                    saved = save_in(stores, photo, result, report)
                    if file is None:
                        row = rows_of(photo, result, options, True, sys.stdout.encoding)
                        print(row, end="", flush=True)
                    elif photo not in file:
                        rows = rows_of(photo, result, options, True, "utf-8")
                        saved = _write(file, photo, rows) and saved
                    if not saved:
                        unsaved.append(path)
            time.sleep(options.interval)


def _write(file: CaptionsFile, photo: str, rows: str) -> bool:
    """Write the rows of a photo; a full disk is reported, and the run continues.

    Returns:
        Whether they are written.

    Raises:
        OSError: They cannot be written for another reason, which waiting doesn't mend.
    """
    try:
        file.write(photo, rows)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        report(f"{photo}: cannot save its caption ({error.strerror})")
        return False
    return True


def _check(options: Namespace) -> None:
    """Check the call before anything runs."""
    (folder,) = options.operands
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder} is not a folder; expected a folder to watch.")
    if not (options.output or options.xmp or options.embed):
        raise ConfigError(
            "No place to save captions was given; give --xmp, --embed or --output FILE."
        )
    options.format = options.format or format_of(options.output, ROWS)
    options.json = options.format == "jsonl"
    check_photo_library(options)
    if options.output is None:
        check_stdout()
    else:
        check_output(options.output, options.operands)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise ArgumentTypeError(f"it is {text}; expected seconds, up to a day.")
    return seconds


class _Once(logging.Filter):
    """Lets each message pass only once, as every scan of the folder repeats its warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is new."""
        message = record.getMessage()
        new = message not in self._told
        self._told.add(message)
        return new
