"""A clip -> its timeline: frames -> features -> shots -> captions.

A model of photos compares frames by the features of its CNN, and captions one frame of each shot. A
model of clips captions the shot itself. Its CNN needs several frames at once, so frames are
compared by their colours alone, which motion within a shot doesn't change.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.ensemble import unit
from captioner.caption import Caption
from captioner.errors import ImageError
from captioner.images.clips import ClipPart, ClipSource
from captioner.video.clip import Clip, Shot, merge
from captioner.video.frames import Frame, Frames
from captioner.video.shots import ShotDetector, Span

if TYPE_CHECKING:
    from captioner.inference import Captioner

T = TypeVar("T")
Look: TypeAlias = Callable[[Image.Image], NDArray[np.float32]]  # features kept per frame

_SIDE, _LEVELS = 64, 4  # size of the picture whose colours are counted; levels per channel


def caption_frames(
    captioner: "Captioner",
    frames: Frames,
    source: ClipSource,
    *,
    steps: bool,
    batch_size: int,
    first_image: int = 0,
    **decoding: Any,
) -> Clip:
    """Caption a clip by its frames.

    The CNN encodes frames in batches, and only those that may still represent a shot are kept. The
    frames that do are captioned in batches too, across shots.

    Args:
        captioner: The model.
        frames: The clip's frames.
        source: The clip itself; a model of clips reads parts of it.
        steps: Whether to caption each frame instead of each shot.
        batch_size: The maximum number of frames to encode and decode at once.
        first_image: See `Captioner.stream`; counts the captioned frames.
        **decoding: As for `Captioner.caption`.

    Returns:
        The timeline.

    Raises:
        VideoError: The clip cannot be read.
        ConfigError: An option is unknown or out of range.
    """
    look = _colors if captioner.frames else partial(_pixels, captioner)
    spans = _steps(frames, look) if steps else _shots(captioner, frames, look, batch_size)
    shots: list[Shot] = []
    features: list[NDArray[np.float32]] = []  # (D,) each, unit length
    total: Any = 0.0  # (D,)
    for batch in _batches(spans, batch_size):
        first = first_image + len(shots)
        if captioner.frames:
            parts = [ClipPart(source, span.start, span.end) for span in batch]
            captions = _caption_parts(captioner, parts, batch_size, first, decoding)
            pooled = unit(np.stack([span.pixels for span in batch]))
        else:
            stepper = captioner.backend.encode(np.stack([span.pixels for span in batch]))
            captions = captioner.decode(stepper, first_image=first, **decoding)
            pooled = unit(stepper.pooled)
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
    """Drop the attention maps: their frame is gone, and a long clip has many."""
    alternatives = tuple(map(_without_attention, caption.alternatives))
    return replace(caption, attention=None, alternatives=alternatives)


def _caption_parts(
    captioner: "Captioner",
    parts: Sequence[ClipPart],
    batch_size: int,
    first_image: int,
    decoding: dict[str, Any],
) -> list[Caption]:
    """Caption parts of a clip with a model of clips."""
    sources: Any = parts
    captions = []
    with closing(
        captioner.stream(sources, batch_size=batch_size, first_image=first_image, **decoding)
    ) as results:
        for result in results:
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
    return captions


def _pixels(captioner: "Captioner", image: Image.Image) -> NDArray[np.float32]:
    """Return a frame as the encoder's input, (3, S, S)."""
    return captioner.preprocessing(image)


def _colors(image: Image.Image) -> NDArray[np.float32]:
    """Return the square roots of a frame's histogram of 64 colours, (64,), a unit vector.

    The dot product of two such vectors is the Bhattacharyya coefficient.
    """
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)) // (256 // _LEVELS)
    numbers = small.astype(np.int64) @ (_LEVELS**2, _LEVELS, 1)  # of the colours
    counts = np.bincount(numbers.ravel(), minlength=_LEVELS**3)
    shares: NDArray[np.float32] = np.sqrt(counts / counts.sum()).astype(np.float32)
    return shares


def _shots(captioner: "Captioner", frames: Frames, look: Look, batch_size: int) -> Iterator[Span]:
    detector = ShotDetector()
    for batch in _batches(iter(frames), batch_size):
        seen = [look(frame.image) for frame in batch]
        features = np.stack(seen)
        if not captioner.frames:
            features = captioner.backend.encode(features).pooled
        for frame, its, one in zip(batch, features, seen, strict=True):
            ended = detector.add(frame.change, its, one)
            if ended is not None:
                yield ended
    last = detector.finish(frames.end)
    if last is not None:
        yield last


def _steps(frames: Frames, look: Look) -> Iterator[Span]:
    before: Frame | None = None
    for frame in frames:
        if before is not None:
            yield Span(before.time, frame.time, look(before.image))
        before = frame
    if before is not None:
        yield Span(before.time, frames.end, look(before.image))


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
