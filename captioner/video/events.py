"""A clip -> the probabilities of events at each of its time steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captioner.errors import ConfigError
from captioner.events.config import NO_EVENTS, THRESHOLD
from captioner.events.timeline import Event, find_events
from captioner.images.batches import check_whole
from captioner.images.clips import ClipSource
from captioner.video.parts import Steps

if TYPE_CHECKING:
    from captioner.inference import Captioner


@dataclass(frozen=True)
class Scan:
    """A model's predictions for a clip, step by step.

    Attributes:
        probabilities: (T, E), the probability of each label at each step.
        labels: The E labels.
        step: Seconds from one step to the next; the first starts at 0.
        duration: The clip's duration in seconds.
    """

    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]
    step: float
    duration: float

    def events(self, threshold: float = THRESHOLD) -> tuple[Event, ...]:
        """Merge steps into events, sorted by their start.

        Args:
            threshold: The minimum probability of an event at each of its steps, above 0 and at most
                1.

        Raises:
            ConfigError: The threshold is out of range.
        """
        return find_events(
            self.probabilities,
            self.labels,
            step=self.step,
            duration=self.duration,
            threshold=threshold,
        )


def scan(captioner: "Captioner", clip: ClipSource, *, batch_size: int = 8) -> Scan:
    """Scan a clip of any length, window by window.

    A window is as long as the clips that the model was trained on. The last one is padded with its
    last frame, and the probabilities of the padding are dropped. Memory holds a batch of windows.

    Args:
        captioner: A model that recognises events.
        clip: The path of a clip, or its bytes.
        batch_size: The number of windows in a batch. It doesn't change the events.

    Raises:
        ConfigError: The model recognises no events, or the batch size is out of range.
        VideoError: The clip cannot be read.
        MissingExtraError: PyAV is not installed.
    """
    check_whole("batch_size", batch_size, least=1)
    if captioner.events is None:
        raise ConfigError(NO_EVENTS)
    step = captioner.events.seconds / captioner.frames
    steps = Steps(clip, step)
    pixels = map(captioner.preprocessing, steps)
    logits = [
        _logits(captioner, windows) for windows in _windows(pixels, captioner.frames, batch_size)
    ]
    scores = np.concatenate(logits)[: len(steps)]  # (T, E)
    probabilities = np.exp(-np.logaddexp(0, -scores)).astype(np.float32)
    return Scan(probabilities, captioner.events.labels, step, steps.duration)


def _logits(captioner: "Captioner", windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (B * F, E) of windows (B, F, 3, S, S)."""
    events = captioner.backend.encode(windows).events
    assert events is not None
    return events.reshape(-1, events.shape[2])


def _windows(
    pixels: Iterator[NDArray[np.float32]], frames: int, batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Group frames (3, S, S) into batches of windows (B, F, 3, S, S)."""
    while batch := list(islice(pixels, frames * batch_size)):
        batch += batch[-1:] * (-len(batch) % frames)
        stacked = np.stack(batch)
        yield stacked.reshape(-1, frames, *stacked.shape[1:])
