"""Frames of a clip, upright and in sRGB's RGB, evenly spaced: what a model of clips sees of it.

Reading clips needs PyAV, the extra `video`.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from captioner.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    import av

_SEEK = 10.0  # seconds ahead from which on seeking is quicker than decoding all that lies between


@dataclass(frozen=True)
class ClipPart:
    """A clip, or a part of one.

    Attributes:
        path: The file.
        start: Where the part begins, in seconds; None for the beginning of the clip.
        end: Where it ends, in seconds; None for the end of the clip.
    """

    path: str | os.PathLike[str]
    start: float | None = None
    end: float | None = None


def read_frames(clip: ClipPart, count: int) -> list[Image.Image]:
    """Read evenly spaced frames of a clip: those shown in the middle of `count` equal parts of it.

    A clip of fewer frames gives some of them twice. Memory holds no more than the frames returned.

    Args:
        clip: The clip.
        count: How many frames.

    Returns:
        The frames in mode "RGB", in their order.

    Raises:
        ImageError: The clip cannot be read, or has no frame between its start and its end.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("Reading clips", "video") from error
    name = os.fspath(clip.path)
    if not Path(clip.path).is_file():
        raise ImageError(name, "no such file")
    try:
        with av.open(name) as container:
            if not container.streams.video:
                raise ImageError(name, "has no video; expected a clip with frames")
            frames = list(_shown_at(container, _times(container, clip, count)))
    except av.FFmpegError as error:
        reason = f"cannot be read as a clip ({error.strerror}); is it damaged, or cut off?"
        raise ImageError(name, reason) from error
    if not frames:
        raise ImageError(name, "has no frames")
    return frames + frames[-1:] * (count - len(frames))


def evenly(frames: Sequence[Any], count: int) -> list[Any]:
    """Choose `count` of some frames as `read_frames` does; of fewer ones, some twice."""
    return [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]


def _times(container: "av.container.InputContainer", clip: ClipPart, count: int) -> list[float]:
    """The middles of `count` equal parts of a clip, in seconds of its timestamps."""
    stream = container.streams.video[0]
    length = _length(container, stream)
    start, end = clip.start or 0.0, length if clip.end is None else clip.end
    if not (0 <= start < end and start < length):
        span = f"from {start:g} s to {end:g} s"
        reason = f"has nothing {span}; expected a part of its {length:g} s"
        raise ImageError(os.fspath(clip.path), reason)
    end = min(end, length)
    first = float((stream.start_time or 0) * (stream.time_base or 0))
    return [first + start + (end - start) * (i + 0.5) / count for i in range(count)]


def _length(container: "av.container.InputContainer", stream: Any) -> float:
    """The length of a clip in seconds; where its file doesn't say, all of it is read to find out."""
    import av

    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    last = first = None
    for packet in container.demux(stream):
        if packet.pts is not None:
            first = packet.pts if first is None else min(first, packet.pts)
            last = max(packet.pts + (packet.duration or 1), last or 0)
    container.seek(0)
    return float((last - first) * stream.time_base) if first is not None and last else 0.0


def _shown_at(
    container: "av.container.InputContainer", times: Sequence[float]
) -> Iterator[Image.Image]:
    """The frames that are shown at some times, which rise; the last frame for those after it."""
    stream = container.streams.video[0]
    assert stream.time_base is not None  # of a file that is read
    stream.thread_type = "AUTO"
    shown = None
    decoded = container.decode(stream)
    left = list(times)
    now, sought = 0.0, -1.0
    while left:
        if left[0] - now > _SEEK and left[0] > sought:  # once: keyframes may be far apart
            container.seek(int(left[0] / stream.time_base), stream=stream)
            decoded, shown, sought = container.decode(stream), None, left[0]
        frame = next(decoded, None)
        if frame is None:
            break
        now = frame.time or 0.0
        while left and shown is not None and now > left[0]:
            yield _upright(shown)
            left.pop(0)
        shown = frame
    if shown is not None:
        for _ in left:
            yield _upright(shown)


def _upright(frame: "av.VideoFrame") -> Image.Image:
    turns = {90: "ROTATE_90", 180: "ROTATE_180", -180: "ROTATE_180", -90: "ROTATE_270"}
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]  # mode "RGB"
    turn = turns.get(frame.rotation)  # degrees, counterclockwise, as Pillow counts
    return image if turn is None else image.transpose(Image.Transpose[turn])
