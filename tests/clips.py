"""Clips that tests draw: a few photos, one after the other, with known cuts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scripts.benchmark_video import Pixels, write_clip

EXAMPLES = Path(__file__).parents[1] / "examples"
RATE = 10


def still(name: str, seconds: float, size: tuple[int, int] = (160, 120)) -> list[Pixels]:
    """A photo of examples/ for a while."""
    with Image.open(EXAMPLES / f"{name}.jpg") as photo:
        pixels = np.asarray(photo.convert("RGB").resize(size))
    return [pixels] * round(seconds * RATE)


def draw_clip(path: Path, *parts: tuple[str, float], codec: str = "libx264") -> Path:
    """Draw a clip of photos of examples/, each for so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [frame for name, seconds in parts for frame in still(name, seconds)]
    write_clip(path, frames, RATE, codec=codec)
    return path


def grey_levels(count: int) -> Iterator[Pixels]:
    """Frames that say by their brightness which they are: 10, 14, 18, ..."""
    for number in range(count):
        yield np.full((48, 64, 3), 10 + 4 * number, np.uint8)


def write_timed(
    path: Path, times: Sequence[float], frames: Sequence[Pixels], **settings: Any
) -> Path:
    """Write a clip whose frames are shown at given times, in milliseconds' steps.

    Args:
        path: The file.
        times: In seconds.
        frames: Its frames.
        **settings: Attributes of the stream's codec context, such as sample_aspect_ratio.
    """
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
