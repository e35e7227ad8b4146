"""A clip -> a few upright frames per second, read on demand by PyAV (FFmpeg)."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.errors import ConfigError, VideoError
from captioner.images.clips import ClipSource
from captioner.images.pixels import MAX_PIXELS, TOO_LARGE
from captioner.video.formats import can_read_clips
from captioner.video.opening import (
    clip_name,
    decode,
    open_clip,
    open_container,
    promised_length,
    shown_for,
    upright,
    video_stream,
)

logger = logging.getLogger(__name__)

STEP = 0.5
"""Seconds from one sampled frame to the next, in a clip with at most `MOST` of them."""
MOST = 7200
"""Maximum number of sampled frames; longer clips are sampled in larger steps, by key frames."""
_POINTS = 32  # sampled per side of a frame: enough to detect a cut
_NO_READER = (
    "is a clip, and reading clips requires the extra video (pip install 'captioner[video]')"
)


@dataclass(frozen=True)
class Frame:
    """A sampled frame.

    Attributes:
        time: When it is shown, in seconds since the clip's first frame.
        change: When the picture changed most since the previous sampled frame: the likely place of
            a cut. It is the time of the first frame after the change.
        image: The upright image in mode "RGB".
    """

    time: float
    change: float
    image: Image.Image


class Frames:
    """The sampled frames of a clip, to be iterated over once in constant memory.

    Samples the first frame at or after 0, `step`, 2 `step`, ... seconds by the timestamps, so the
    frame rate may vary. Without `every`, a clip of more than an hour gets `MOST` samples, and only
    its key frames are decoded, which bounds the running time.

    Args:
        source: A path, or the bytes of a file.
        every: Seconds from one frame to the next; None for `STEP`, or more in a long clip.
        size: The required length of the shorter side in pixels; larger frames are scaled down, but
            stay at least twice as large as this.
        longest: The maximum duration of a clip in seconds; None for no limit.
        name: The clip's name in error messages; by default its path.

    Attributes:
        step: Seconds from one frame to the next.
        promised: The duration that the file states, in seconds; None if it states none.
        end: The end of the last frame, in seconds; complete after the iteration.

    Raises:
        VideoError: The clip cannot be read.
        ConfigError: `every` is not a positive number.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        every: float | None = None,
        size: int = 224,
        longest: float | None = None,
        name: str | None = None,
    ) -> None:
        check_every(every)
        self._name = name if name is not None else clip_name(source)
        self._size = size
        self._longest = longest
        if not can_read_clips():
            raise VideoError(self._name, _NO_READER)
        self._file = open_clip(source, self._name)
        try:
            self._container = open_container(self._file, self._name)
        except BaseException:
            self._file.close()
            raise
        try:
            self._stream = video_stream(self._container, self._name)
            self.promised = promised_length(self._container, self._stream)
            self._check_length(self.promised or 0.0)
        except BaseException:
            self.close()
            raise
        long = every is None and self.promised is not None and self.promised > MOST * STEP
        self._key_frames_alone = long
        self.step = every or (self.promised / MOST if long and self.promised else STEP)
        self.end = 0.0
        self._skipped_end = 0.0  # seconds of the clip's timestamps, of frames that aren't decoded
        self._damaged = 0  # packets

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, then close the file.

        Raises:
            VideoError: No frame can be decoded, or the clip is too long.
        """
        try:
            yield from self._sampled()
        finally:
            self.close()
        self._warn()

    def _sampled(self) -> Iterator[Frame]:
        due = 0.0
        before: NDArray[np.int32] | None = None
        change, largest = 0.0, -1.0
        seen = False
        for time, frame in self._timed():
            points = _points(frame)
            if before is not None and before.shape == points.shape:
                difference = float(np.abs(points - before).mean())
                if difference > largest:
                    change, largest = time, difference
            else:  # the first frame, or one of another size
                change, largest = time, math.inf
            before = points
            if time >= due - 1e-6:
                yield Frame(time, change, self._image(frame))
                seen, largest = True, -1.0
                due = (math.floor(time / self.step + 1e-6) + 1) * self.step
        if not seen:
            raise VideoError(
                self._name, "has no frame that can be decoded: it is empty, damaged or encrypted"
            )

    def _timed(self) -> Iterator[tuple[float, Any]]:
        """Yield each decoded frame and its time, starting at 0 and never decreasing."""
        first, last = None, 0.0
        frames = decode(
            self._container,
            self._stream,
            self._name,
            key_frames_alone=self._key_frames_alone,
            on_damage=self._count_damage,
            on_skip=self._note_end,
        )
        for frame in frames:
            if frame.time is None:
                time = self.end
            else:
                first = frame.time if first is None else first
                time = max(last, frame.time - first)
            last = time
            self.end = max(self.end, time + shown_for(frame, self._stream))
            self._check_length(time)
            yield time, frame
        self.end = max(self.end, self._skipped_end - (first or 0.0))

    def _note_end(self, packet: Any) -> None:
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._skipped_end = max(self._skipped_end, end)

    def _count_damage(self) -> None:
        self._damaged += 1

    def _image(self, frame: Any) -> Image.Image:
        """Scale a frame down, to square pixels, and turn it upright."""
        if frame.width * frame.height > MAX_PIXELS:
            raise VideoError(self._name, TOO_LARGE)
        aspect = self._stream.sample_aspect_ratio or 1
        width, height = frame.width * float(aspect), float(frame.height)
        scale = min(1.0, 2 * self._size / min(width, height))
        try:
            image: Image.Image = frame.to_image(
                width=max(1, round(width * scale)),
                height=max(1, round(height * scale)),
                interpolation="AREA" if scale < 1 else "BICUBIC",
            )
        except (ValueError, OSError) as error:
            raise VideoError(self._name, f"has frames that cannot be read ({error})") from error
        return upright(image, frame.rotation)

    def _check_length(self, seconds: float) -> None:
        if self._longest is not None and seconds > self._longest:
            raise VideoError(
                self._name,
                f"is too long: expected at most {self._longest / 60:g} minutes",
            )

    def _warn(self) -> None:
        """Log which part of the clip could not be read."""
        if self.promised is not None and self.end < 0.9 * self.promised - 1 - self.step:
            logger.warning(
                "%s: ends after %.1f of %.1f seconds; it is incomplete or damaged.",
                self._name,
                self.end,
                self.promised,
            )
        elif self._damaged:
            logger.warning("%s: skipped damaged parts.", self._name)


def check_every(every: float | None) -> None:
    """Check the time between two frames.

    Raises:
        ConfigError: It is not a positive number.
    """
    if every is not None and (
        isinstance(every, bool)
        or not isinstance(every, (int, float))
        or not math.isfinite(every)
        or every <= 0
    ):
        raise ConfigError(f"every is {every!r}; expected a number of seconds above 0.")


def _points(frame: Any) -> NDArray[np.int32]:
    """Sample the brightness of a frame on a grid; for packed formats, arbitrary bytes."""
    plane = frame.planes[0]
    wide = frame.format.components[0].bits > 8
    values = np.frombuffer(plane, np.uint16 if wide else np.uint8)
    rows = values[: plane.height * (len(values) // plane.height)].reshape(plane.height, -1)
    down, across = (max(1, side // _POINTS) for side in (plane.height, plane.width))
    return rows[::down, : plane.width : across].astype(np.int32)
