"""Errors, warnings and progress on stderr. Only results go to stdout."""

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
    """Print an error in one line."""
    _say(f"error: {message}")


def note(message: str) -> None:
    """Print a note in one line."""
    _say(message)


def _say(line: str) -> None:
    with suppress(OSError):  # if stderr is closed, the exit status still tells
        print(line, file=sys.stderr)


def show_warnings() -> None:
    """Show this library's warnings, and hide other libraries' warnings about odd images."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _silence_c_libraries()


def _silence_c_libraries() -> None:
    """Hide what C code writes to stderr, such as libtiff's warnings about odd images."""
    if sys.stderr is not sys.__stderr__ or sys.stderr is None or sys.stderr.fileno() != _STDERR:
        return  # replaced by the caller
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
    """Open the null device in place of closed standard streams.

    Otherwise the next file that is opened would get their file descriptor, and with it whatever C
    code writes to stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def check_stdout() -> None:
    """Check that results can be printed.

    Raises:
        ConfigError: Standard output is closed.
    """
    if sys.__stdout__ is None:
        raise ConfigError(
            "Standard output is closed, so results cannot be printed; redirect it to a file or a"
            " terminal."
        )


def print_odd_characters(*, names: bool = False) -> None:
    """Escape characters that stdout cannot encode, instead of failing with a traceback.

    Args:
        names: Print undecodable bytes of file names unchanged, for programs that read the names.
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
    """Yield items with a progress bar on stderr, or one line per minute if it is no terminal.

    Args:
        items: The items.
        total: Their number, if known.
        shown: Whether to show progress at all.
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
