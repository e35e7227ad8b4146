"""Time steps of a clip <-> events: the targets of training, and the events that are reported."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.events.config import THRESHOLD, check_threshold


@dataclass(frozen=True)
class Event:
    """Something that happens in a clip.

    Attributes:
        start: Its start, in seconds since the clip's first frame.
        end: Its end, in seconds.
        label: What happens.
        probability: The mean probability of the label over the steps of the event; 1 for an
            annotation.
    """

    start: float
    end: float
    label: str
    probability: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return its times, label and probability as plain data for JSON."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "label": self.label,
            "probability": round(self.probability, 4),
        }


def find_events(
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
    *,
    step: float,
    duration: float,
    threshold: float = THRESHOLD,
) -> tuple[Event, ...]:
    """Merge steps into events: an event is a run of steps at which its label is probable.

    Args:
        probabilities: (T, E), the probability of each label at each step.
        labels: The E labels.
        step: Seconds from one step to the next; the first starts at 0.
        duration: The clip's duration in seconds; no event ends after it.
        threshold: The minimum probability at each step, above 0 and at most 1.

    Returns:
        The events, sorted by start, then end, then label.

    Raises:
        ConfigError: The threshold is out of range.
    """
    check_threshold(threshold)
    events = []
    for label, column in zip(labels, probabilities.T, strict=True):
        runs = groupby(range(len(column)), key=lambda index: bool(column[index] >= threshold))
        for probable, run in runs:
            if not probable:
                continue
            steps = list(run)
            start, end = steps[0] * step, min((steps[-1] + 1) * step, duration)
            events.append(Event(start, end, label, float(column[steps].mean())))
    return tuple(sorted(events, key=lambda event: (event.start, event.end, event.label)))


def label_steps(
    events: Iterable[Event], labels: Sequence[str], *, start: float, step: float, count: int
) -> NDArray[np.float32]:
    """Mark the steps of a clip at which its events happen; the inverse of `find_events`.

    An event happens at the steps whose middle it covers, and at the step that contains its own
    middle, so that even very short events get a step.

    Args:
        events: The events.
        labels: E labels; events with other labels are skipped.
        start: The start of the first step, in seconds.
        step: Seconds from one step to the next.
        count: T, the number of steps.

    Returns:
        (T, E), 1 where an event with the label happens, else 0.
    """
    found = np.zeros((count, len(labels)), np.float32)
    columns = {label: column for column, label in enumerate(labels)}
    middles = start + (np.arange(count) + 0.5) * step
    for event in events:
        column = columns.get(event.label)
        if column is None:
            continue
        covered = (event.start <= middles) & (middles < event.end)
        center = (event.start + event.end) / 2
        near = (middles - step / 2 <= center) & (center < middles + step / 2)
        found[covered | near, column] = 1
    return found
