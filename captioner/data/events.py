"""Labelled events -> what a model of clips is to say at each of its frames."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.events import load_events, warn_of_late
from captioner.annotations.records import Record, Split
from captioner.errors import DataError, ImageError
from captioner.events.config import EventConfig
from captioner.events.timeline import Event, label_steps
from captioner.video.parts import span_of

UNKNOWN = -1.0
"""The label of steps that nobody labelled."""


@dataclass(frozen=True)
class EventLabels:
    """The labels of a run's clips.

    Attributes:
        config: Which labels there are, and the median length of the training clips.
        steps: For each split, (F, E) of each record: 1 where an event happens at a frame, 0 where
            it doesn't, `UNKNOWN` for a clip that isn't in the table or cannot be read.
    """

    config: EventConfig
    steps: dict[Split, list[NDArray[np.float32]]]


def event_labels(
    table: Path,
    clips: Path | None,
    records: Mapping[Split, Sequence[Record]],
    frames: int,
) -> EventLabels:
    """Read the labels of a run's clips.

    Args:
        table: See `load_events`.
        clips: The folder that its paths start from; the table's own if None.
        records: The clips of each split.
        frames: F, how many frames the model sees of each.

    Raises:
        DataError: The table cannot be used, or has none of the training clips.
    """
    known = {_place(path): events for path, events in load_events(table, clips).items()}
    spans = {split: [_span(record, known) for record in some] for split, some in records.items()}
    lengths = [end - start for start, end in filter(None, spans["train"])]
    if not lengths:
        raise DataError(
            f"{table}: none of the {len(records['train']):,} training clips is in it, such as"
            f" {records['train'][0].path}; expected paths that start from"
            f" {table.parent if clips is None else clips}"
        )
    whole = {
        record.path: (span[1], known[_place(record.path)])
        for split, some in records.items()
        for record, span in zip(some, spans[split], strict=True)
        if span is not None and record.clip.end is None
    }
    warn_of_late(table, ((path, *facts) for path, facts in whole.items()))
    labels = tuple(sorted({event.label for events in known.values() for event in events}))
    steps: dict[Split, list[NDArray[np.float32]]] = {}
    for split, some in records.items():
        steps[split] = []
        for record, span in zip(some, spans[split], strict=True):
            if span is None:
                steps[split].append(np.full((frames, len(labels)), UNKNOWN, np.float32))
                continue
            start, end = span
            events, step = known[_place(record.path)], (end - start) / frames
            steps[split].append(label_steps(events, labels, start=start, step=step, count=frames))
    return EventLabels(EventConfig(labels, round(median(lengths), 3)), steps)


def _span(record: Record, known: Mapping[str, Sequence[Event]]) -> tuple[float, float] | None:
    """Where the clip of a record begins and ends; None if it has no labels or cannot be read."""
    if _place(record.path) not in known:
        return None
    try:
        return span_of(record.clip)
    except ImageError:  # named when its frames are read
        return None


def _place(path: Path) -> str:
    """One path for all that name the same file, links aside."""
    return os.path.abspath(path)
