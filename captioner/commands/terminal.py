"""What goes to stderr: errors, warnings and progress. Results alone go to stdout."""

import codecs
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from captioner.errors import ConfigError
from captioner.progress import ProgressLines

T = TypeVar("T")

_STDERR = 2


def report(message: str) -> None:
    """Say in a line what is wrong."""
    _say(f"error: {message}")


def note(message: str) -> None:
    """Say something in a line."""
    _say(message)


def _say(line: str) -> None:
    with suppress(OSError):  # where nobody hears it, the exit status still tells
        print(line, file=sys.stderr)


def show_warnings() -> None:
    """Show the library's warnings, and hide those of the libraries below it about odd images."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _silence_c_libraries()


def _silence_c_libraries() -> None:
    """Hide what C code writes to stderr, such as libtiff's warnings about odd images."""
    if sys.stderr is not sys.__stderr__ or sys.stderr is None or sys.stderr.fileno() != _STDERR:
        return  # somebody else's
    ours = os.fdopen(
        os.dup(_STDERR), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
    )
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
    sys.stderr = ours
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
            handler.setStream(ours)


def open_closed_streams() -> None:
    """Open nothing in the place of standard streams that are closed.

    Python has None for them, and the next file that is opened would get their number, and what C
    code writes there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def check_stdout() -> None:
    """Refuse to work for nobody.

    Raises:
        ConfigError: Standard output is closed.
    """
    if sys.__stdout__ is None:
        raise ConfigError(
            "Standard output is closed, so nothing can be printed; send it to a file, or leave it"
            " open."
        )


def print_odd_characters(*, names: bool = False) -> None:
    """Escape what stdout's encoding cannot hold; by itself Python ends with a traceback.

    Args:
        names: Print odd bytes of file names as they are, for programs that read the names.
    """
    codecs.register_error("captioner", _escape_odd)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="captioner" if names else "backslashreplace")


def _escape_odd(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def track(items: Iterable[T], total: int | None, shown: bool = True) -> Iterator[T]:
    """Pass items on under a progress bar on stderr, or with a line a minute if that is no terminal.

    Args:
        items: What is worked through.
        total: How many there are, if that is known.
        shown: Whether there is a bar at all.
    """
    if not shown:
        yield from items
        return
    if not sys.stderr.isatty():
        lines = ProgressLines("Done", total, "items", note)
        for done, item in enumerate(items, start=1):
            yield item
            lines.at(done)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False
    ) as progress:
        yield from progress.track(items, total=total)
