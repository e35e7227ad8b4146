"""A clip -> its timeline: frames -> the CNN's features -> shots -> captions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from captioner.backends.ensemble import unit
from captioner.caption import Caption
from captioner.video.clip import Clip, Shot, merge
from captioner.video.frames import Frame, Frames
from captioner.video.shots import ShotDetector, Span

if TYPE_CHECKING:
    from captioner.inference import Captioner

T = TypeVar("T")


def caption_frames(
    captioner: "Captioner",
    frames: Frames,
    *,
    steps: bool,
    batch_size: int,
    first_image: int = 0,
    **decoding: Any,
) -> Clip:
    """Caption a clip by its frames.

    Frames pass through the CNN in batches, and only those that may yet stand for a shot are kept.
    Those that do are captioned in batches too, of several shots.

    Args:
        captioner: The model.
        frames: The clip's frames.
        steps: Whether each frame is captioned on its own, instead of shots.
        batch_size: The most frames that are encoded and decoded at once.
        first_image: See `Captioner.stream`; the frames that are captioned are counted.
        **decoding: As for `Captioner.caption`.

    Returns:
        The timeline.

    Raises:
        VideoError: The clip cannot be read.
        ConfigError: An option is unknown or out of range.
    """
    spans = _steps(captioner, frames) if steps else _shots(captioner, frames, batch_size)
    shots: list[Shot] = []
    features: list[NDArray[np.float32]] = []  # (D,) each, of length 1
    total: Any = 0.0  # (D,)
    for batch in _batches(spans, batch_size):
        stepper = captioner.backend.encode(np.stack([span.pixels for span in batch]))
        pooled = unit(stepper.pooled)
        captions = captioner.decode(stepper, first_image=first_image + len(shots), **decoding)
        for span, caption, vector in zip(batch, captions, pooled, strict=True):
            shots.append(Shot(span.start, span.end, _without_attention(caption)))
            features.append(vector)
            total = total + (vector if span.total is None else span.total)
    central = int(np.argmax(np.stack(features) @ total))
    return Clip(
        shots=tuple(shots) if steps else merge(shots),
        duration=frames.end,
        summary=shots[central].caption,
    )


def _without_attention(caption: Caption) -> Caption:
    """Leave out the maps: the frame that they lie over is gone, and a long clip has many."""
    alternatives = tuple(map(_without_attention, caption.alternatives))
    return replace(caption, attention=None, alternatives=alternatives)


def _shots(captioner: "Captioner", frames: Frames, batch_size: int) -> Iterator[Span]:
    detector = ShotDetector()
    for batch in _batches(iter(frames), batch_size):
        pixels = [captioner.preprocessing(frame.image) for frame in batch]
        pooled = captioner.backend.encode(np.stack(pixels)).pooled
        for frame, features, one in zip(batch, pooled, pixels, strict=True):
            ended = detector.add(frame.change, features, one)
            if ended is not None:
                yield ended
    last = detector.finish(frames.end)
    if last is not None:
        yield last


def _steps(captioner: "Captioner", frames: Frames) -> Iterator[Span]:
    before: Frame | None = None
    for frame in frames:
        if before is not None:
            yield Span(before.time, frame.time, captioner.preprocessing(before.image))
        before = frame
    if before is not None:
        yield Span(before.time, frames.end, captioner.preprocessing(before.image))


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
