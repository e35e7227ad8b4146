"""A small drawn data set of clips: coloured shapes that move, grow, change colour or swap places.

What happens in a clip is told by the order of its frames alone: a clip played backwards shows
something else that could happen as well, and is drawn as often. So whoever sees the frames in no
order, or one of them, can but guess. This also holds for any odd share of the frames that
`captioner.video.parts` samples evenly, such as 8 of 24: they are the same frames backwards, to the
pixel, as each is drawn and compressed by itself.
"""

import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from captioner.annotations.events import COLUMNS as EVENT_COLUMNS
from captioner.datasets.shapes import COLORS, SHAPES, VAL_SHARE
from captioner.errors import MissingExtraError
from captioner.events.timeline import Event

SIZE = 96  # pixels a side
FRAMES = 24  # of a clip
RATE = 12  # frames a second
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SECONDS = FRAMES / RATE  # of a clip
_TURN = 0.5  # seconds around the moment in which a colour turns
_BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}
_PATH, _SMALL, _LARGE, _MIDDLE = 0.36, 0.08, 0.2, 0.14  # shares of the side: way, and radii


@dataclass(frozen=True)
class Happening:
    """What happens in a clip.

    Attributes:
        color: The shape's colour at the beginning.
        shape: What it is.
        steps: What it does, one or two of "moves left", "grows", "turns blue" and their likes, of
            different kinds. ("swaps",) for two shapes that swap places.
        other: The other shape's colour and name, if two swap places: it is on the right at first.
    """

    color: str
    shape: str
    steps: tuple[str, ...]
    other: tuple[str, str] | None = None

    def captions(self) -> list[str]:
        """Return what is said about it: the first sentence, and the same in other words."""
        name = f"a {self.color} {self.shape}"
        if self.other is not None:
            other = f"a {' '.join(self.other)}"
            return [
                f"{name} on the left swaps places with {other}",
                f"{name} on the left and {other} on the right swap places",
            ]
        if len(self.steps) == 1:
            return [f"{name} {self.steps[0]}", f"there is {name} that {self.steps[0]}"]
        first, second = self.steps
        return [f"{name} {first}, then {second}", f"{name} {first} and then {second}"]

    def events(self) -> list[Event]:
        """When it happens: each step in its part of the clip, but a colour turns in the middle."""
        if self.other is not None:
            return [Event(0.0, SECONDS, "swap places")]
        part = SECONDS / len(self.steps)
        events = []
        for number, step in enumerate(self.steps):
            start, end = number * part, (number + 1) * part
            if step.startswith("turns"):
                middle = (start + end) / 2
                start, end = middle - _TURN / 2, middle + _TURN / 2
            events.append(Event(start, end, step))
        return events

    def backwards(self) -> "Happening":
        """Return what happens in the clip played backwards."""
        if self.other is not None:
            return Happening(*self.other, self.steps, (self.color, self.shape))
        color, steps = self.color, []
        for step in self.steps:
            verb, _, what = step.partition(" ")
            if verb == "turns":
                steps.append(f"turns {color}")
                color = what
            elif verb == "moves":
                steps.append(f"moves {_BACK[what]}")
            else:
                steps.append("shrinks" if verb == "grows" else "grows")
        return replace(self, color=color, steps=tuple(reversed(steps)))


def draw_happening(rng: np.random.Generator) -> Happening:
    """Draw what happens in a clip; what happens in the clip played backwards is as likely."""
    color, other, third = rng.choice(list(COLORS), 3, replace=False).tolist()
    shape, second = rng.choice(SHAPES, 2, replace=False).tolist()
    if rng.random() < 0.2:
        return Happening(color, shape, ("swaps",), (other, second))
    steps = [
        f"moves {rng.choice(list(MOVES))}",
        str(rng.choice(["grows", "shrinks"])),
        f"turns {third}",
    ]
    count = 1 if rng.random() < 0.25 else 2
    return Happening(color, shape, tuple(steps[i] for i in rng.permutation(3)[:count]))


def draw_frames(
    happening: Happening, rng: np.random.Generator, count: int = FRAMES
) -> list[NDArray[np.uint8]]:
    """Draw the frames of a clip.

    Args:
        happening: What happens in it.
        rng: Of places, sizes and the background.
        count: How many frames.

    Returns:
        The frames, (SIZE, SIZE, 3) each.
    """
    background = tuple(int(gray) for gray in np.full(3, rng.integers(110, 190)))
    middle = 0.5 + rng.uniform(-0.06, 0.06, 2)  # of the way
    radius = _MIDDLE * rng.uniform(0.9, 1.1)
    turn = float(rng.choice([-1, 1]))
    frames = []
    for index in range(count):
        time = (index + 0.5) / count  # from 0 to 1
        image = Image.new("RGB", (SIZE, SIZE), background)
        draw = ImageDraw.Draw(image)
        for color, shape, center, size in _state(happening, time, middle, radius, turn):
            _draw_shape(draw, color, shape, center * SIZE, size * SIZE)
        frames.append(np.asarray(image))
    return frames


def _state(
    happening: Happening, time: float, middle: NDArray[np.float64], radius: float, turn: float
) -> Iterator[tuple[str, str, NDArray[np.float64], float]]:
    """Colour, shape, centre and radius of each shape at a time from 0 to 1."""
    if happening.other is not None:
        # They pass each other on a circle, clockwise or not, so that neither hides the other.
        angle = np.pi * time
        offset = _PATH / 2 * np.array([-np.cos(angle), turn * np.sin(angle)])
        yield happening.color, happening.shape, middle + offset, 0.8 * radius
        yield *happening.other, middle - offset, 0.8 * radius
        return
    color, center, size = happening.color, middle, radius
    for number, step in enumerate(happening.steps):
        done = min(1.0, max(0.0, time * len(happening.steps) - number))
        verb, _, what = step.partition(" ")
        if verb == "turns":
            color = what if done >= 0.5 else color
        elif verb == "moves":
            center = middle + (done - 0.5) * _PATH * np.array(MOVES[what])
        else:
            share = done if verb == "grows" else 1 - done
            size = _SMALL + share * (_LARGE - _SMALL)
    yield color, happening.shape, center, size


def _draw_shape(
    draw: ImageDraw.ImageDraw, color: str, shape: str, center: NDArray[np.float64], radius: float
) -> None:
    # Rounded, so that a shape at the same place is the same to the pixel, however it got there.
    x, y, radius = (round(float(value), 6) for value in (*center, radius))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=COLORS[color])
    elif shape == "square":
        draw.rectangle(box, fill=COLORS[color])
    else:
        corners = [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
        draw.polygon(corners, fill=COLORS[color])


def draw_clips(folder: Path, count: int, seed: int = 0) -> None:
    """Draw the data set into a folder, unless it is there.

    The folder gets `clips/`, MP4 files of two seconds, and `train.csv` and `val.csv` with the
    columns `clip` and `caption`: a fifth of the clips is held out for validation. Each clip has two
    captions. When what happens in them is in `events.csv`, and of those held out in
    `val_events.csv`, with the columns `clip`, `start`, `end` and `label`.

    Args:
        folder: Where; written beside and renamed, so that it is there whole or not at all.
        count: How many clips.
        seed: Of the drawings; each clip's depends on this and its number alone.

    Raises:
        MissingExtraError: PyAV, which writes clips, is not installed.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "clips").mkdir(parents=True)
        rows, events = [], []
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            happening = draw_happening(rng)
            name = f"clips/{number:05d}.mp4"
            write_clip(temporary / name, draw_frames(happening, rng), key_frames_alone=True)
            rows.append([(name, caption) for caption in happening.captions()])
            events.append([(name, each.start, each.end, each.label) for each in happening.events()])
        held_out = round(count * VAL_SHARE)
        for table, columns, chosen in (
            ("val", ("clip", "caption"), rows[:held_out]),
            ("train", ("clip", "caption"), rows[held_out:]),
            ("events", EVENT_COLUMNS, events),
            ("val_events", EVENT_COLUMNS, events[:held_out]),
        ):
            with (temporary / f"{table}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(row for clip in chosen for row in clip)
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # another process of the run was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    rate: int = RATE,
    *,
    key_frames_alone: bool = False,
) -> None:
    """Write frames as an MP4 file.

    Args:
        path: Where.
        frames: The frames, (H, W, 3) each; sides are even numbers.
        rate: Frames a second.
        key_frames_alone: Compress each frame by itself: what is read of a frame then doesn't depend
            on the frames before it.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("Writing clips", "video") from error
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, rate)
        stream.codec_context.qmin = stream.codec_context.qmax = 2  # nearly as drawn
        if key_frames_alone:
            stream.codec_context.gop_size = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
