"""Evenly spaced frames of a clip, upright and in sRGB: the input of a model of clips."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from captioner.errors import ImageError, MissingExtraError, VideoError
from captioner.images import IMAGE_SUFFIXES, ImageSource, open_image
from captioner.images.clips import ClipPart, ClipSource, evenly
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

ClipInput: TypeAlias = ClipSource | ClipPart | Sequence[ImageSource]
"""The input of a model of clips: a file, a part of it, or frames in order."""

_SEEK = 10.0  # seconds; for larger gaps, seeking is faster than decoding everything in between
_EMPTY = "has no frame that can be decoded: it is empty or damaged"
_PHOTOS = IMAGE_SUFFIXES - {".gif"}  # FFmpeg reads animated GIFs


def read_frames(clip: ClipPart, count: int) -> list[Image.Image]:
    """Read evenly spaced frames of a clip: those shown in the middle of `count` equal parts of it.

    A clip with fewer frames returns some of them twice. Memory holds only the returned frames.

    Args:
        clip: The clip.
        count: The number of frames.

    Returns:
        The frames in mode "RGB", in order.

    Raises:
        VideoError: The clip cannot be read, or has no frame between its start and its end.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(clip.path) as (name, container):
        stream = video_stream(container, name)
        start, end = _span(container, stream, clip)
        first = _first(stream) + start
        times = [first + (end - start) * (i + 0.5) / count for i in range(count)]
        frames = list(_shown_at(container, stream, name, times))
    if not frames:
        raise VideoError(name, _EMPTY)
    return frames + frames[-1:] * (count - len(frames))


def span_of(clip: ClipPart) -> tuple[float, float]:
    """Return the start and the end of a part of a clip in seconds, without decoding.

    Raises:
        VideoError: The clip cannot be read, or has no frames between its start and its end.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(clip.path) as (name, container):
        return _span(container, video_stream(container, name), clip)


class Steps:
    """The frames of a clip in equal time steps; memory holds one at a time.

    The frame of a step is the one shown in its middle, as for `read_frames`.

    Args:
        source: A path, or the bytes of a file.
        step: The length of a step in seconds.

    Attributes:
        duration: The clip's duration in seconds.

    Raises:
        VideoError: The clip cannot be read.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: ClipSource, step: float) -> None:
        self._source, self._step = source, step
        self.duration = span_of(ClipPart(source))[1]

    def __len__(self) -> int:
        return max(1, math.ceil(self.duration / self._step - 0.5))

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield the frames in mode "RGB".

        Raises:
            VideoError: No frame can be decoded.
        """
        count = 0
        with _opened(self._source) as (name, container):
            stream = video_stream(container, name)
            first = _first(stream)
            times = [first + (index + 0.5) * self._step for index in range(len(self))]
            for image in _shown_at(container, stream, name, times):
                yield image
                count += 1
        if not count:
            raise VideoError(name, _EMPTY)


@contextmanager
def _opened(source: ClipSource) -> Iterator[tuple[str, Any]]:
    """Open a clip; give its name and its container.

    Raises:
        VideoError: The clip cannot be opened, or read within the context.
        MissingExtraError: PyAV is not installed.
    """
    if not can_read_clips():
        raise MissingExtraError("Reading clips", "video")
    import av

    name = clip_name(source)
    with open_clip(source, name) as file, open_container(file, name) as container:
        try:
            yield name, container
        except av.FFmpegError as error:
            raise VideoError(name, f"cannot be read as a clip ({error.strerror})") from error


def frames_of(source: ClipInput | ImageSource, count: int, min_size: int) -> list[Image.Image]:
    """Read the frames of a source that a model takes as input.

    Args:
        source: A clip, a part of one, or its frames; a single image in memory is a clip of one
            frame.
        count: The number of frames that the model takes.
        min_size: See `captioner.images.open_image`; applies to frames given as images.

    Raises:
        ImageError: The source cannot be read, has no frames, or is a photo file.
        MissingExtraError: PyAV is not installed.
    """
    if isinstance(source, (str, os.PathLike)) and _is_photo(source):
        raise ImageError(
            os.fsdecode(source),
            "is a photo, and this model captions clips: use a model of photos",
        )
    if isinstance(source, (str, os.PathLike, bytes)):
        source = ClipPart(source)
    if isinstance(source, ClipPart):
        return read_frames(source, count)
    images = source if isinstance(source, (list, tuple)) else [source]
    if not images:
        raise ImageError("clip", "has no frames")
    chosen = evenly(range(len(images)), count)
    opened = {
        index: open_image(images[index], name=f"frame {index + 1}", min_size=min_size)
        for index in set(chosen)
    }
    return [opened[index] for index in chosen]


def _is_photo(path: str | os.PathLike[str]) -> bool:
    return Path(os.fsdecode(path)).suffix.lower() in _PHOTOS


def _span(container: Any, stream: Any, clip: ClipPart) -> tuple[float, float]:
    """Return the start and end of a part of a clip, in seconds since the clip's first frame."""
    length, start = promised_length(container, stream), clip.start or 0.0
    if length is None:
        length = _length(container, stream) if clip.end is None else clip.end
    elif start >= length:  # some files state less than they have
        length = max(length, _length(container, stream))
    end = length if clip.end is None else clip.end
    if not (0 <= start < end and start < length):
        span = f"from {start:g} s to {end:g} s"
        reason = f"has no frames {span}; expected a part of its {length:g} s"
        raise VideoError(clip_name(clip.path), reason)
    return start, min(end, length)


def _first(stream: Any) -> float:
    """Return when the first frame is shown, in seconds of the clip's timestamps."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _length(container: Any, stream: Any) -> float:
    """Measure the duration in seconds of a clip, by reading the whole file."""
    last = first = None
    for packet in container.demux(stream):
        if packet.pts is not None:
            first = packet.pts if first is None else min(first, packet.pts)
            last = max(packet.pts + (packet.duration or 1), last or 0)
    container.seek(0)
    return float((last - first) * stream.time_base) if first is not None and last else 0.0


def _shown_at(
    container: Any, stream: Any, name: str, times: Sequence[float]
) -> Iterator[Image.Image]:
    """Return the frames shown at ascending times; the last frame for later times."""
    shown = None
    decoded = decode(container, stream, name)
    left = list(times)
    now, sought = 0.0, -1.0
    after = first = _first(stream)  # the time of a frame that doesn't state its own
    while left:
        if left[0] - now > _SEEK and left[0] > sought:  # once: key frames may be far apart
            decoded, shown, sought = _decode_from(container, stream, name, left[0]), None, left[0]
            after = first
        frame = next(decoded, None)
        if frame is None:
            break
        now = after if frame.time is None else frame.time
        after = now + shown_for(frame, stream)
        while left and shown is not None and now > left[0]:
            yield _image(shown)
            left.pop(0)
        shown = frame
    if shown is not None:
        for _ in left:
            yield _image(shown)


def _decode_from(container: Any, stream: Any, name: str, time: float) -> Iterator[Any]:
    """Seek, and decode from a key frame that isn't after a time.

    MPEG transport and program streams have no index: FFmpeg finds a place near the time, and the
    first key frame after it may come too late, or not state its time. Then earlier places are
    tried, at last the start.
    """
    first, back = _first(stream), 0.0
    while True:
        start = max(first, time - back)
        container.seek(int(start / stream.time_base), stream=stream)
        decoded = decode(container, stream, name)
        frame = next(decoded, None)
        found = frame is not None and frame.time is not None and frame.time <= time
        if found or start == first:
            return decoded if frame is None else chain([frame], decoded)
        back = 2 * back + 1


def _image(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()  # mode "RGB"
    return upright(image, frame.rotation)
