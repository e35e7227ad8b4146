"""Clips: the parts `video` and `shots` of scripts/benchmark.py.

`video` measures the seconds of video captioned per second of wall-clock time and of CPU time (which
other load hardly affects), the share of each stage, and the memory: for a minute of 1280x720, and
for one minute and many minutes of 320x180, whose peaks should be the same.

`shots` compares methods of shot detection on drawn clips with known cuts: photos under a moving,
shaking camera, joined by cuts, dissolves and fades through black, with flashes, changes of light,
noise and objects passing in front of the lens. A boundary counts as found if a detected one is
within half a second of it, or of the dissolve. PySceneDetect is measured too if it is installed
(pip install scenedetect).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.protocol import Encoded
from captioner.errors import ConfigError, MissingExtraError
from captioner.images import find_images, open_image
from captioner.inference import Caption, Captioner
from captioner.video.frames import Frame, Frames
from captioner.video.shots import THRESHOLD, ShotDetector
from captioner.video.timeline import caption_frames

ROOT = Path(__file__).parents[1]
TOLERANCE = 0.5  # seconds
_SHOT = 4  # seconds per shot of a captioned clip
_CROP = 0.8  # share of a photo's sides that the camera sees
# The peak of resident memory, from /proc: the peak that getrusage reports includes the parent's.
_CHILD = """
import json, sys
from pathlib import Path
from scripts.benchmark_video import timed
figures = timed(Path(sys.argv[1]), sys.argv[2] or None)
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({**figures, "MB": peak}))
"""

Pixels = NDArray[np.uint8]  # (H, W, 3)


def video(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the speed of captioning clips, the share of each stage, and the memory."""
    _check_reader()
    photos = _photos(options.images, 15)
    rows = []
    with TemporaryDirectory() as folder:
        for minutes, size, rate in (
            (options.short, (1280, 720), 25),
            (options.short, (320, 180), 10),
            (options.minutes, (320, 180), 10),
        ):
            path = Path(folder) / f"{size[0]}-{minutes}.mp4"
            write_clip(path, _panned(photos, round(60 * minutes), size, rate), rate)
            name = f"{minutes:g} minutes, {size[0]}x{size[1]}, {rate} fps"
            rows.append(_measure(name, path, options.model))
    return "Clips: seconds of video per second, shares of the time, memory in MB", rows


def _measure(name: str, path: Path, model: Path | None) -> dict[str, Any]:
    """Caption a clip in a separate process, so that its peak memory is that of the clip alone."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(model or "")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {"": name, **json.loads(done.stdout)}


def timed(path: Path, model: str | None) -> dict[str, Any]:
    """Measure the time to caption a clip, and the share of each stage."""
    captioner = Captioner.from_pretrained(model)
    watched = _Watched(captioner)
    frames = _TimedFrames(path, size=captioner.preprocessing.size)
    start, start_cpu = time.perf_counter(), time.process_time()
    clip = caption_frames(watched, frames, path, steps=False, batch_size=32)
    total, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    decoding, cnn, rnn = frames.seconds, watched.encoding, watched.decoding_seconds
    return {
        "shots": len(clip.shots),
        "s/s": clip.duration / total,
        "s/CPU s": clip.duration / cpu,
        "decoding": decoding / total,
        "CNN": cnn / total,
        "RNN": rnn / total,
        "rest": 1 - (decoding + cnn + rnn) / total,
    }


class _TimedFrames(Frames):
    """Frames that measure the time of decoding."""

    seconds = 0.0

    def __iter__(self) -> Iterator[Frame]:
        frames = super().__iter__()
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            self.seconds += time.perf_counter() - start
            if frame is None:
                return
            yield frame


class _Watched(Captioner):
    """A captioner that measures the time of its CNN and its RNN."""

    def __init__(self, other: Captioner) -> None:
        self._encode = other.backend.encode
        super().__init__(self, other.vocabulary, other.preprocessing, other.decoding, other.tags)
        self.encoding = self.decoding_seconds = 0.0

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """Encode like a backend."""
        start = time.perf_counter()
        encoded = self._encode(pixels)
        self.encoding += time.perf_counter() - start
        return encoded

    def decode(self, stepper: Encoded, *, first_image: int = 0, **decoding: Any) -> list[Caption]:
        """Decode like a captioner."""
        start = time.perf_counter()
        captions = super().decode(stepper, first_image=first_image, **decoding)
        self.decoding_seconds += time.perf_counter() - start
        return captions


# --- Shots


@dataclass(frozen=True)
class Boundary:
    """The transition between two shots of a drawn clip, in seconds; a cut has no duration."""

    start: float
    end: float


def shots(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the recall and the precision of shot boundaries on drawn clips."""
    _check_reader()
    photos = _photos(options.images, 200)
    found: dict[str, list[tuple[int, int, int]]] = {}
    late: dict[str, list[float]] = {}
    captioner = Captioner.from_pretrained(options.model)
    with TemporaryDirectory() as folder:
        for number in range(options.clips):
            path = Path(folder) / f"{number}.mp4"
            random = np.random.default_rng(number)
            frames, boundaries = draw_film(photos, random, shots=options.film_shots)
            write_clip(path, frames, 24)
            for name, times in _detected(path, captioner).items():
                pairs = matched(times, boundaries)
                found.setdefault(name, []).append((len(pairs), len(times), len(boundaries)))
                late.setdefault(name, []).extend(
                    abs(times[one] - boundaries[other].start)
                    for one, other in pairs
                    if boundaries[other].start == boundaries[other].end
                )
    rows = []
    for name, counts in found.items():
        right, theirs, ours = np.sum(counts, axis=0)
        precision, recall = right / max(theirs, 1), right / max(ours, 1)
        rows.append(
            {
                "": name,
                "found": int(theirs),
                "right": int(right),
                "of": int(ours),
                "precision": float(precision),
                "recall": float(recall),
                "F1": float(2 * right / max(theirs + ours, 1)),
                "cuts off by, s": float(np.mean(late[name])) if late[name] else None,
            }
        )
    return f"Shots: {options.clips} drawn clips", rows


def matched(times: Sequence[float], boundaries: Sequence[Boundary]) -> list[tuple[int, int]]:
    """Match times with boundaries, each with at most one; return the indices of both."""
    pairs = []
    free = set(range(len(times)))
    for number, boundary in enumerate(boundaries):
        near = [
            one
            for one in free
            if boundary.start - TOLERANCE <= times[one] <= boundary.end + TOLERANCE
        ]
        if near:
            best = min(near, key=lambda one: abs(times[one] - boundary.start))
            free.remove(best)
            pairs.append((best, number))
    return pairs


def _detected(path: Path, captioner: Captioner) -> dict[str, list[float]]:
    """Return the boundaries that each method detects, in seconds."""
    found = {}
    frames = list(Frames(path, size=captioner.preprocessing.size))
    pixels = [captioner.preprocessing(frame.image) for frame in frames]
    features = np.concatenate(
        [
            captioner.backend.encode(np.stack(pixels[start : start + 32])).pooled
            for start in range(0, len(pixels), 32)
        ]
    )
    for threshold in (THRESHOLD - 0.1, THRESHOLD, THRESHOLD + 0.1):
        detector = ShotDetector(threshold)
        spans = [
            detector.add(frame.change, vector, one)
            for frame, vector, one in zip(frames, features, pixels, strict=True)
        ]
        name = f"features, {threshold:.2f}"
        found[name] = [span.end for span in spans if span is not None]
    if find_spec("scenedetect"):
        import scenedetect

        for detector_class in (
            scenedetect.ContentDetector,
            scenedetect.AdaptiveDetector,
            scenedetect.HistogramDetector,
        ):
            scenes = scenedetect.detect(str(path), detector_class())
            name = f"PySceneDetect, {detector_class.__name__}"
            found[name] = [_seconds(start) for start, _ in scenes[1:]]
    return found


def _seconds(timecode: Any) -> float:
    seconds = timecode.seconds if hasattr(timecode, "seconds") else timecode.get_seconds()
    return float(seconds)


def draw_film(
    photos: Sequence[Image.Image],
    random: np.random.Generator,
    *,
    shots: int = 8,
    size: tuple[int, int] = (320, 240),
    rate: int = 24,
) -> tuple[Iterator[Pixels], list[Boundary]]:
    """Draw a clip of shots of photos, and return their boundaries.

    Args:
        photos: The photos; one is never followed by itself.
        random: The random generator.
        shots: The number of shots.
        size: Width and height.
        rate: Frames per second.

    Returns:
        Its frames, and its boundaries.
    """
    order = [int(random.integers(len(photos)))]
    while len(order) < shots:
        following = int(random.integers(len(photos)))
        if following != order[-1]:
            order.append(following)
    pieces = [
        _shot(photos[photo], random, round(float(random.uniform(2, 5)) * rate), size)
        for photo in order
    ]
    frames, boundaries = pieces[0], []
    for piece in pieces[1:]:
        kind = random.choice(["cut", "cut", "cut", "dissolve", "fade"])
        length = 0 if kind == "cut" else round(float(random.uniform(0.3, 1)) * rate)
        boundaries.append(Boundary((len(frames) - length) / rate, len(frames) / rate))
        for step in range(length):
            share = (step + 1) / (length + 1)
            before, after = frames[len(frames) - length + step], piece[step]
            if kind == "fade":
                mixed = before * max(0, 1 - 2 * share) + after * max(0, 2 * share - 1)
            else:
                mixed = before * (1 - share) + after * share
            frames[len(frames) - length + step] = mixed.astype(np.uint8)
        frames += piece[length:]
    return iter(frames), boundaries


def _shot(
    photo: Image.Image, random: np.random.Generator, count: int, size: tuple[int, int]
) -> list[Pixels]:
    """Return a photo under a moving camera, with disturbances that complicate shot detection."""
    room = 1 - _CROP
    start, end = random.uniform(0, room, (2, 2))
    shake = random.normal(0, 0.004, (count, 2))
    light = np.linspace(*random.uniform(0.75, 1.25, 2), count)
    flash = int(random.integers(count)) if random.random() < 0.3 else -9
    passes = random.random() < 0.3
    frames = []
    for number in range(count):
        share = number / max(1, count - 1)
        left, top = np.clip(start * (1 - share) + end * share + shake[number], 0, room)
        box = (left, top, left + _CROP, top + _CROP)
        scaled = tuple(side * length for side, length in zip(box, 2 * photo.size, strict=True))
        image = photo.resize(size, Image.Resampling.BILINEAR, box=scaled)
        values = np.asarray(image) * light[number] + random.normal(0, 4, (size[1], size[0], 1))
        if flash <= number < flash + 3:
            values = values + 120
        pixels = np.clip(values, 0, 255).astype(np.uint8)
        if passes:
            across = round((2 * share - 0.5) * size[0])
            pixels[:, max(0, across) : max(0, across + size[0] // 4)] = 40
        frames.append(pixels)
    return frames


def write_clip(
    path: Path, frames: Iterable[Pixels], rate: float, *, codec: str = "libx264"
) -> None:
    """Encode a clip, quickly.

    Args:
        path: The file; its suffix determines the container.
        frames: Its frames, RGB, all of the same size, with even sides.
        rate: Frames per second.
        codec: FFmpeg's name of the encoder.
    """
    import av

    with av.open(str(path), "w") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                options = {"preset": "ultrafast", "crf": "23"} if codec == "libx264" else {}
                stream = container.add_stream(codec, rate=round(rate), options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def _panned(
    photos: Sequence[Image.Image], seconds: int, size: tuple[int, int], rate: int
) -> Iterator[Pixels]:
    """Yield frames of photos one after the other, each under a camera that moves right."""
    width, height = size
    wide = [
        np.asarray(photo.resize((width + width // 4, height), Image.Resampling.BILINEAR))
        for photo in photos
    ]
    for number in range(seconds * rate):
        within = number % (_SHOT * rate) / (_SHOT * rate)
        left = round(within * (width // 4))
        photo = wide[number // (_SHOT * rate) % len(wide)]
        yield np.ascontiguousarray(photo[:, left : left + width])


def _photos(folder: Path | None, most: int) -> list[Image.Image]:
    folder = folder or ROOT / "examples"
    found = [open_image(path, min_size=480) for path in islice(find_images(folder), most)]
    if len(found) < 2:
        raise ConfigError(f"{folder}: {len(found)} photos; expected two or more.")
    return found


def _check_reader() -> None:
    if find_spec("av") is None:
        raise MissingExtraError("Reading clips", "video")
