"""Shot boundaries from changes of the CNN's features, and the frame that represents a shot.

Frames are compared by the cosine distance of their pooled features. A frame that is far from the
mean of its shot starts a new shot if the next frame is close to it. So a flash, or an object that
passes in front of the lens, starts none, and a dissolve starts one at its end. A shot has at least
two frames. It starts where the picture changed most between two frames, measured by brightness.

The frame that represents a shot is the medoid: the one closest to the mean of the features of all
its frames. It is a real frame that shows what the shot shows most of the time, without fades, blur
and passing objects. Averaging the features of several frames instead would mix different contents
of the same location, and the most probable caption is often the least informative one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.backends.ensemble import unit

Float32Array = NDArray[np.float32]

THRESHOLD = 0.3
"""The cosine distance above which two frames show different scenes."""
_CANDIDATES = 8  # representative frames of a shot to choose from


@dataclass(frozen=True)
class Span:
    """A part of a clip, and the frame that represents it.

    Attributes:
        start: Its start in seconds.
        end: Its end in seconds.
        pixels: The frame, preprocessed, (3, S, S); for a model of clips its colours, (D,).
        total: The sum of the unit-length features of all its frames, (D,); None if they were not
            computed.
    """

    start: float
    end: float
    pixels: Float32Array
    total: Float32Array | None = None


class ShotDetector:
    """Groups frames into shots, one after the other, in constant memory.

    Args:
        threshold: The cosine distance above which two frames show different scenes.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._shot: _Shot | None = None
        self._odd: _Looked | None = None  # the last frame, if it is far from its shot

    def add(self, change: float, features: Float32Array, pixels: Float32Array) -> Span | None:
        """Add the next frame.

        Args:
            change: When the picture changed most since the previous frame, in seconds.
            features: Its pooled features (D,).
            pixels: The frame, preprocessed.

        Returns:
            The shot that ended before it, if any.
        """
        frame = _Looked(change, unit(features), pixels)
        if self._shot is None:
            self._shot = _Shot(change, frame)
            return None
        odd, self._odd = self._odd, None
        if self._near(self._shot.total, frame):
            self._shot.take(frame)  # the odd frame was a flash
            return None
        if odd is None or not self._near(odd.features, frame):
            self._odd = frame
            return None
        ended = self._shot.span(odd.change)
        self._shot = _Shot(odd.change, odd)
        self._shot.take(frame)
        return ended

    def finish(self, end: float) -> Span | None:
        """Return the last shot, which ends with the clip; None for a clip without frames."""
        return None if self._shot is None else self._shot.span(end)

    def _near(self, features: Float32Array, frame: "_Looked") -> bool:
        return 1 - float(unit(features) @ frame.features) < self._threshold


@dataclass(frozen=True)
class _Looked:
    """A sampled frame: the time of its change, its unit-length features, its pixels."""

    change: float
    features: Float32Array
    pixels: Float32Array


class _Shot:
    """A shot in progress. Keeps every 1st, 2nd, 4th, ... frame, so that memory is bounded."""

    def __init__(self, start: float, frame: _Looked) -> None:
        self._start = start
        self.total = frame.features
        self._kept = [frame]
        self._count, self._stride = 1, 1

    def take(self, frame: _Looked) -> None:
        self.total = self.total + frame.features
        if self._count % self._stride == 0:
            self._kept.append(frame)
        self._count += 1
        if len(self._kept) > _CANDIDATES:
            self._kept = self._kept[::2]
            self._stride *= 2

    def span(self, end: float) -> Span:
        features = np.stack([frame.features for frame in self._kept])
        best = self._kept[int(np.argmax(features @ self.total))]
        return Span(self._start, end, best.pixels, self.total)
