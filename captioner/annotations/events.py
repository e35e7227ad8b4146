"""Load tables of labelled events in clips."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from captioner.annotations.entries import get_seconds, get_text, reading
from captioner.annotations.formats import csv_rows
from captioner.annotations.paths import existing_name
from captioner.errors import DataError
from captioner.events.timeline import Event

logger = logging.getLogger(__name__)

COLUMNS = ("clip", "start", "end", "label")


def load_events(
    table: str | os.PathLike[str], clips: str | os.PathLike[str] | None = None
) -> dict[Path, tuple[Event, ...]]:
    """Read a table of events: a CSV file with the columns `clip`, `start`, `end` and `label`.

    A row is an event; times are in seconds from the beginning of the clip. A clip in which nothing
    happens has one row, in which all but `clip` is empty.

    Args:
        table: The file, in UTF-8.
        clips: The folder that paths of clips start from; the table's own if not given.

    Returns:
        The events of each clip, in the order of the table.

    Raises:
        DataError: The file cannot be read or used; the message says where it is wrong.
    """
    path = Path(table)
    folder = path.parent if clips is None else Path(clips)
    events: dict[Path, tuple[Event, ...]] = {}
    with reading(path):
        for where, row in csv_rows(path, COLUMNS):
            name = get_text(where, row, "clip")
            if not name.strip():
                raise DataError(f'{where}: expected "clip", the path of a clip')
            clip = folder / existing_name(folder, name)
            if not any((row.get(key) or "").strip() for key in COLUMNS[1:]):
                events.setdefault(clip, ())
                continue
            start, end = (get_seconds(where, row, key) for key in ("start", "end"))
            if start is None or end is None:
                missing = "start" if start is None else "end"
                raise DataError(f'{where}: no "{missing}"; expected the seconds of an event')
            if end <= start:
                raise DataError(
                    f'{where}: "end" is {end:g}; expected a time after "start", in seconds'
                )
            label = (row.get("label") or "").strip()
            if not label:
                raise DataError(f'{where}: expected "label", what happens in the clip')
            events[clip] = (*events.get(clip, ()), Event(start, end, label))
    if not any(events.values()):
        raise DataError(f"{path}: no events in it; expected at least one")
    return events


def warn_of_late(
    table: str | os.PathLike[str], clips: Iterable[tuple[Path, float, Iterable[Event]]]
) -> None:
    """Warn of events that begin when their clip has ended, which no step of it can show.

    Args:
        table: The table that they are from.
        clips: The path of each clip, its length in seconds, and its events.
    """
    late = [
        (path, length, event)
        for path, length, events in clips
        for event in events
        if event.start >= length
    ]
    if late:
        path, length, event = late[0]
        logger.warning(
            "%s: %d events begin after the end of their clip and are ignored, such as %r at %g s of"
            " %s, which has %g s. Times are in seconds from the beginning of the clip",
            table,
            len(late),
            event.label,
            event.start,
            path,
            length,
        )
