"""Open and decode clips with PyAV (FFmpeg), reading nothing but the given file."""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from PIL import Image

from captioner.errors import ImageError, VideoError
from captioner.images.clips import ClipSource
from captioner.images.pixels import MAX_PIXELS, TOO_LARGE
from captioner.images.sources import name_of, open_file
from captioner.video.formats import demuxers, is_clip

_THREADS = 4  # of the decoder; each holds a frame
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_ENCRYPTED = "is encrypted: expected a clip without copy protection"


def clip_name(source: object) -> str:
    """Return the name of a clip for error messages: its path, if it has one."""
    return "clip (bytes)" if isinstance(source, bytes) else name_of(source)


def open_clip(source: ClipSource, name: str) -> BinaryIO:
    """Open the file of a clip.

    Raises:
        VideoError: It cannot be opened.
    """
    try:
        return open_file(source, name)
    except ImageError as error:
        reason = error.reason.replace("an image", "a clip").replace("the image", "the clip")
        if reason.startswith("is of type"):
            reason = f"is of type {type(source).__name__}: expected a path or bytes"
        raise VideoError(name, reason) from error


def open_container(file: BinaryIO, name: str) -> Any:
    """Open the container of a clip, reading nothing but the given file.

    Raises:
        VideoError: It cannot be opened.
    """
    import av

    av.logging.set_level(None)  # FFmpeg's messages about damaged files would mix with ours
    try:
        return av.open(
            file,
            container_options={"format_whitelist": demuxers(), "protocol_whitelist": ""},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            name,
            f"is not a clip, or is damaged, incomplete or of an unknown format ({_short(error)})",
        ) from error


def video_stream(container: Any, name: str) -> Any:
    """Return the video stream that players show.

    Raises:
        VideoError: The container has no video stream that can be decoded.
    """
    pictures = [one for one in container.streams.video if not _is_cover(one)]
    if not pictures:
        has = "sound, but no video" if container.streams.audio else "no video"
        raise VideoError(name, f"has {has}")
    if container.format.name.endswith("_pipe"):
        kind = container.format.name.removesuffix("_pipe").upper()
        hint = " with the suffix of a clip: rename it" if is_clip(name) else "; expected a clip"
        raise VideoError(name, f"is an image ({kind}){hint}")
    known = [one for one in pictures if one.codec_context is not None]
    if not known:
        raise VideoError(name, "is encrypted or uses an unsupported codec")
    stream = max(known, key=lambda one: one.width * one.height)
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(name, TOO_LARGE)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(_THREADS, os.cpu_count() or 1)
    return stream


def promised_length(container: Any, stream: Any) -> float | None:
    """Return the duration that a clip states, in seconds; None if it states none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None  # in microseconds


def decode(
    container: Any,
    stream: Any,
    name: str,
    *,
    key_frames_alone: bool = False,
    on_damage: Callable[[], None] = lambda: None,
    on_skip: Callable[[Any], None] = lambda packet: None,
) -> Iterator[Any]:
    """Decode the frames of a stream from its container's current position; skip damaged ones.

    Args:
        container: The container, from `open_container`.
        stream: Its stream, from `video_stream`.
        name: The clip's name in error messages.
        key_frames_alone: Whether to decode only key frames.
        on_damage: Called for each packet that cannot be read or decoded.
        on_skip: Called with each packet that isn't decoded, as it is not a key frame.

    Raises:
        VideoError: The clip is encrypted.
    """
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):  # the rest is lost
            on_damage()
            packet = None
        if packet is None:
            return
        if packet.has_sidedata("encryption_info"):
            raise VideoError(name, _ENCRYPTED)
        if key_frames_alone and packet.size and not packet.is_keyframe:
            on_skip(packet)
            continue
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError):  # the next one may be intact
            on_damage()
            continue
        yield from frames


def shown_for(frame: Any, stream: Any) -> float:
    """Return how long a frame is shown, in seconds."""
    if frame.duration:
        return float(frame.duration * frame.time_base)
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04


def upright(image: Image.Image, rotation: float) -> Image.Image:
    """Rotate a frame's image by the rotation that its clip states: degrees, counterclockwise."""
    turn = _TURNS.get(round(rotation / 90) * 90 % 360)
    return image if turn is None else image.transpose(turn)


def _is_cover(stream: Any) -> bool:
    """Return whether the stream is the cover art of an audio file."""
    return "attached_pic" in (stream.disposition.name or "")


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
