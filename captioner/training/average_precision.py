"""Average precision of events, frame by frame, by torchmetrics."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_average_precision

from captioner.annotations.events import load_events, warn_of_late
from captioner.errors import ConfigError
from captioner.events.config import NO_EVENTS
from captioner.events.timeline import label_steps
from captioner.inference import Captioner
from captioner.video.events import scan

logger = logging.getLogger(__name__)


def average_precisions(
    probabilities: NDArray[np.float32], steps: NDArray[np.float32], labels: Sequence[str]
) -> dict[str, float | None]:
    """Compute the average precision of each label over all steps.

    Args:
        probabilities: (N, E).
        steps: (N, E), 1 where an event happens, else 0; below 0 for steps that nobody labelled,
            which don't count.
        labels: The E labels.

    Returns:
        The average precision by label, from 0 to 1; None for a label that never happens.
    """
    known = steps[:, 0] >= 0
    predicted, target = torch.from_numpy(probabilities[known]), torch.from_numpy(steps[known])
    return {
        label: (
            float(binary_average_precision(predicted[:, column], target[:, column].long()))
            if target[:, column].any()
            else None
        )
        for column, label in enumerate(labels)
    }


def score_events(
    captioner: Captioner,
    table: Path,
    clips: Path | None = None,
    *,
    batch_size: int = 8,
    track: Callable[[Iterable[Path], int], Iterable[Path]] = lambda paths, count: paths,
) -> dict[str, float | None]:
    """Compute the average precision of each label over the clips of a table.

    Args:
        captioner: A model that recognises events.
        table: See `captioner.annotations.events.load_events`.
        clips: The folder that its paths start from; the table's own if None.
        batch_size: See `captioner.video.events.scan`.
        track: Is handed the clips and their number, and passes them on, to show the progress.

    Returns:
        As `average_precisions`, by the labels of the model.

    Raises:
        ConfigError: The model recognises no events, or none of the table's.
        DataError: The table cannot be used.
        VideoError: A clip cannot be read.
    """
    if captioner.events is None:
        raise ConfigError(NO_EVENTS)
    labels = captioner.events.labels
    known = load_events(table, clips)
    told = {event.label for events in known.values() for event in events}
    if not told & set(labels):
        raise ConfigError(f"The model tells none of the labels in {table}; it tells {labels}.")
    if unknown := sorted(told - set(labels)):
        logger.warning(
            "%s: the model doesn't tell %s, whose events are ignored; it tells %s",
            table,
            ", ".join(unknown),
            ", ".join(labels),
        )
    probabilities, steps, lengths = [], [], []
    for path in track(known, len(known)):
        seen = scan(captioner, path, batch_size=batch_size)
        count = len(seen.probabilities)
        probabilities.append(seen.probabilities)
        lengths.append((path, seen.duration, known[path]))
        steps.append(label_steps(known[path], labels, start=0.0, step=seen.step, count=count))
    warn_of_late(table, lengths)
    return average_precisions(np.concatenate(probabilities), np.concatenate(steps), labels)


def mean_average_precision(precisions: Mapping[str, float | None]) -> float | None:
    """Compute the mean over the labels that happen; None if none does."""
    known = [value for value in precisions.values() if value is not None]
    return sum(known) / len(known) if known else None
