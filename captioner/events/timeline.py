"""Steps of a clip <-> events: what is trained on, and what is told of a clip."""

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
        start: When it begins, in seconds since the clip's first frame.
        end: When it ends, in seconds.
        label: What happens.
        probability: The mean probability of the label over the steps of the event; 1 of an
            annotation.
    """

    start: float
    end: float
    label: str
    probability: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Give its times, label and probability, fit for JSON."""
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
        probabilities: (T, E), of each label at each step.
        labels: The E labels.
        step: Seconds from one step to the next; the first begins at 0.
        duration: How long the clip lasts, in seconds: no event ends after it.
        threshold: The least probability of each step, above 0 and up to 1.

    Returns:
        The events by their start, then their end and their label.

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
    """Say at which steps of a clip its events happen; the reverse of `find_events`.

    An event happens at the steps whose middle it covers, and at the one that its own middle lies
    in, so that no event is too short.

    Args:
        events: The events.
        labels: E labels; events of others are left out.
        start: Where the first step begins, in seconds.
        step: Seconds from one step to the next.
        count: T, how many steps there are.

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
