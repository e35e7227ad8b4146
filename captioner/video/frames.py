"""A clip -> a few upright frames a second, read as they are needed, by PyAV (FFmpeg)."""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.errors import ConfigError, ImageError, VideoError
from captioner.images.pixels import MAX_PIXELS, TOO_LARGE
from captioner.images.sources import name_of, open_file
from captioner.video.formats import can_read_clips, demuxers

logger = logging.getLogger(__name__)

ClipSource: TypeAlias = str | os.PathLike[str] | bytes

STEP = 0.5
"""Seconds from one frame that is looked at to the next, in a clip of at most `MOST` of them."""
MOST = 7200
"""Frames that are looked at; a longer clip is looked at in larger steps, by its key frames."""
_THREADS = 4  # of the decoder; each holds a frame
_POINTS = 32  # of a frame, a side: enough to see a cut
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_NO_READER = "is a clip, and what reads these is not installed (pip install 'captioner[video]')"
_ENCRYPTED = "is encrypted: expected a clip without copy protection"


@dataclass(frozen=True)
class Frame:
    """A frame that is looked at.

    Attributes:
        time: When it is shown, in seconds since the clip's first frame.
        change: When the picture changed most since the frame that was looked at before: where a cut
            between the two lies. It is the time of the first frame behind the change.
        image: What it shows, upright, in mode "RGB".
    """

    time: float
    change: float
    image: Image.Image


class Frames:
    """The frames of a clip, to be gone through once; only what the decoder holds is in memory.

    Frames are those at or after 0, `step`, 2 `step`, ... seconds by their timestamps, so the rate
    of the clip may vary. Without `every`, a clip of more than an hour is looked at `MOST` times,
    and only its key frames are decoded: the time that takes is bounded.

    Args:
        source: A path, or the bytes of a file.
        every: Seconds from one frame to the next; None for `STEP`, or more in a long clip.
        size: The length in pixels that the shorter side needs; larger frames are scaled down, but
            stay at least twice as large as this.
        longest: The seconds that a clip may last; None for any number.
        name: What errors call the clip; by default its path.

    Attributes:
        step: Seconds from one frame to the next.
        promised: How long the clip lasts by what it says of itself, in seconds; None if it doesn't.
        end: When the last frame that was decoded ends, in seconds.

    Raises:
        VideoError: The clip cannot be read.
        ConfigError: `every` is no length of time.
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
        self._name = name if name is not None else _name(source)
        self._size = size
        self._longest = longest
        if not can_read_clips():
            raise VideoError(self._name, _NO_READER)
        self._file = _open_file(source, self._name)
        try:
            self._container = _open(self._file, self._name)
        except BaseException:
            self._file.close()
            raise
        try:
            self._stream = _video_stream(self._container, self._name)
            self.promised = _promised(self._container, self._stream)
            self._check_length(self.promised or 0.0)
        except BaseException:
            self.close()
            raise
        long = every is None and self.promised is not None and self.promised > MOST * STEP
        self._key_frames_alone = long
        self.step = every or (self.promised / MOST if long and self.promised else STEP)
        self.end = 0.0
        self._damaged = 0  # packets

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames, then close the file.

        Raises:
            VideoError: No frame can be decoded, or the clip lasts too long.
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
        """Each decoded frame and its time, from 0 on, never falling."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        usual = float(1 / rate) if rate else 0.04
        first, last = None, 0.0
        for frame in self._decoded():
            if frame.time is None:
                time = self.end
            else:
                first = frame.time if first is None else first
                time = max(last, frame.time - first)
            last = time
            lasts = float(frame.duration * frame.time_base) if frame.duration else usual
            self.end = max(self.end, time + lasts)
            self._check_length(time)
            yield time, frame

    def _decoded(self) -> Iterator[Any]:
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):  # what follows is lost
                self._damaged += 1
                packet = None
            if packet is None:
                return
            if packet.has_sidedata("encryption_info"):
                raise VideoError(self._name, _ENCRYPTED)
            if self._key_frames_alone and packet.size and not packet.is_keyframe:
                continue
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):  # the next one may be whole
                self._damaged += 1
                continue
            yield from frames

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
        turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
        return image if turn is None else image.transpose(turn)

    def _check_length(self, seconds: float) -> None:
        if self._longest is not None and seconds > self._longest:
            raise VideoError(
                self._name,
                f"lasts more than {self._longest / 60:g} minutes, the most that is allowed here",
            )

    def _warn(self) -> None:
        """Say what of the clip could not be read."""
        if self.promised is not None and self.end < 0.9 * self.promised - 1 - self.step:
            logger.warning(
                "%s: ends after %.1f of %.1f seconds; it is incomplete or damaged.",
                self._name,
                self.end,
                self.promised,
            )
        elif self._damaged:
            logger.warning("%s: damaged in places, which were left out.", self._name)


def check_every(every: float | None) -> None:
    """Refuse what is no length of time.

    Raises:
        ConfigError: It is none.
    """
    if every is not None and (
        isinstance(every, bool)
        or not isinstance(every, (int, float))
        or not math.isfinite(every)
        or every <= 0
    ):
        raise ConfigError(f"every is {every!r}; expected seconds, a number above 0.")


def _name(source: object) -> str:
    return "clip (bytes)" if isinstance(source, bytes) else name_of(source)


def _open_file(source: ClipSource, name: str) -> BinaryIO:
    try:
        return open_file(source, name)
    except ImageError as error:
        reason = error.reason.replace("an image", "a clip").replace("the image", "the clip")
        if reason.startswith("is of type"):
            reason = f"is of type {type(source).__name__}: expected a path or bytes"
        raise VideoError(name, reason) from error


def _open(file: BinaryIO, name: str) -> Any:
    """Open the container of a clip; nothing but the given file is read.

    Raises:
        VideoError: It cannot be opened.
    """
    import av

    av.logging.set_level(None)  # what FFmpeg says of odd files would mix with what we say
    try:
        return av.open(
            file,
            container_options={"format_whitelist": demuxers(), "protocol_whitelist": ""},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            name, f"is no clip, or a damaged, incomplete or unknown one ({_short(error)})"
        ) from error


def _video_stream(container: Any, name: str) -> Any:
    """The stream of pictures that is shown.

    Raises:
        VideoError: There is none, or none that can be decoded.
    """
    pictures = [one for one in container.streams.video if not _is_cover(one)]
    if not pictures:
        has = "sound, but no video" if container.streams.audio else "no video"
        raise VideoError(name, f"has {has}")
    if container.format.name.endswith("_pipe"):
        kind = container.format.name.removesuffix("_pipe").upper()
        raise VideoError(name, f"is an image ({kind}) with the name of a clip: rename it")
    known = [one for one in pictures if one.codec_context is not None]
    if not known:
        raise VideoError(name, "is encrypted, or of a codec that cannot be decoded here")
    stream = max(known, key=lambda one: one.width * one.height)
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(name, TOO_LARGE)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(_THREADS, os.cpu_count() or 1)
    return stream


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture on the cover of a piece of music."""
    return "attached_pic" in (stream.disposition.name or "")


def _promised(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None  # in microseconds


def _points(frame: Any) -> NDArray[np.int32]:
    """The brightness of points of a frame on a grid; of packed formats, whatever lies there."""
    plane = frame.planes[0]
    wide = frame.format.components[0].bits > 8
    values = np.frombuffer(plane, np.uint16 if wide else np.uint8)
    rows = values[: plane.height * (len(values) // plane.height)].reshape(plane.height, -1)
    down, across = (max(1, side // _POINTS) for side in (plane.height, plane.width))
    return rows[::down, : plane.width : across].astype(np.int32)


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
