"""What goes to stderr: errors, warnings and progress. Results alone go to stdout."""

import io
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def report(message: str) -> None:
    """Say in a line what is wrong."""
    print(f"error: {message}", file=sys.stderr)


def show_warnings() -> None:
    """Print what the library warns of."""
    logging.basicConfig(format="%(levelname)s: %(message)s")


def print_odd_characters(errors: str) -> None:
    """Say what becomes of what stdout's encoding cannot hold; by itself it ends with a traceback.

    Args:
        errors: The name of a handler of `codecs`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=errors)


def track(items: Iterable[T], total: int | None, shown: bool = True) -> Iterator[T]:
    """Pass items on under a progress bar on stderr, if that is a terminal.

    Args:
        items: What is worked through.
        total: How many there are, if that is known.
        shown: Whether there is a bar at all.
    """
    if not (shown and sys.stderr.isatty()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield from progress.track(items, total=total)
