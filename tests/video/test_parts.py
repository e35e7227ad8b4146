"""Frames of a clip: which ones, upright, and what is said of clips that cannot be read."""

import struct
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from captioner.datasets.clips import write_clip
from captioner.errors import ImageError, VideoError
from captioner.images.clips import ClipPart, evenly
from captioner.video.parts import frames_of, read_frames

av = pytest.importorskip("av")

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(path: Path, count: int, rate: int = 10) -> Path:
    """A clip whose frames have the brightness 0, 8, 16, ... up to 240, and again."""
    frames = [np.full((32, 48, 3), 8 * (number % 31), np.uint8) for number in range(count)]
    write_clip(path, frames, rate)
    return path


def numbers(clip: ClipPart, count: int) -> list[int]:
    """Which frames (modulo 31) were read, by their brightness."""
    return [round(float(np.asarray(frame).mean()) / 8) for frame in read_frames(clip, count)]


@pytest.mark.parametrize(
    ("start", "end", "count", "expected"),
    [
        (None, None, 4, [2, 7, 12, 17]),  # in the middle of each quarter of 20 frames
        (None, None, 20, list(range(20))),
        (None, None, 1, [10]),
        (1.0, None, 2, [12, 17]),
        (None, 1.0, 2, [2, 7]),
        (0.5, 1.0, 5, [5, 6, 7, 8, 9]),
        (1.5, 60.0, 2, [16, 18]),  # an end behind the clip's own is its own
    ],
)
def test_frames_are_evenly_spaced_over_the_clip_or_its_part(
    tmp_path: Path, start: float | None, end: float | None, count: int, expected: list[int]
) -> None:
    path = write(tmp_path / "clip.mp4", 20)
    assert numbers(ClipPart(path, start, end), count) == expected


def test_a_clip_of_few_frames_gives_some_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 3)
    assert numbers(ClipPart(path), 6) == [0, 0, 1, 1, 2, 2]
    assert evenly("abc", 6) == list("aabbcc")
    assert evenly(range(20), 4) == [2, 7, 12, 17]


def test_frames_of_a_long_clip_are_those_that_decoding_all_of_it_finds(tmp_path: Path) -> None:
    """It is sought through, from keyframe to keyframe."""
    path = write(tmp_path / "long.mp4", 240, rate=1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        brightness = [
            round(float(frame.to_ndarray(format="rgb24").mean()) / 8)
            for frame in container.decode(stream)
        ]
    middles = [int(240 * (i + 0.5) / 7) for i in range(7)]
    assert numbers(ClipPart(path), 7) == [brightness[middle] for middle in middles]


@pytest.mark.parametrize("suffix", [".m2ts", ".vob", ".mkv"])
def test_frames_are_found_where_seeking_ends_at_a_later_key_frame(
    tmp_path: Path, suffix: str
) -> None:
    """There is one every 50 seconds; transport and program streams have no index of them.

    In program streams most of these small frames don't state their time either.
    """
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(300):
            pixels = np.full((48, 64, 3), 20 + 3 * (number // 5), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for start, end in ((0, 20), (0, 45), (35, 45)):
        shown = [
            (float(np.asarray(frame).mean()) - 20) / 3
            for frame in read_frames(ClipPart(path, start, end), 4)
        ]
        middles = [start + (end - start) * (i + 0.5) / 4 for i in range(4)]
        np.testing.assert_allclose(shown, np.array(middles) - 0.5, atol=1)  # whole seconds


def test_a_part_after_the_stated_end_of_a_clip_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", 20)
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # Matroska's duration, in milliseconds
    assert struct.unpack(">d", content[at : at + 8]) == (2000,)
    path.write_bytes(content[:at] + struct.pack(">d", 500) + content[at + 8 :])
    assert numbers(ClipPart(path, 1.0, 1.5), 5) == [10, 11, 12, 13, 14]
    with pytest.raises(VideoError, match=r"no frames from 3 s to 4 s; expected a part of its 2 s"):
        read_frames(ClipPart(path, 3, 4), 1)


def test_variable_frame_rates_go_by_the_time_at_which_frames_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, time in enumerate((0, 1, 2, 3, 10, 19)):
            pixels = np.full((32, 48, 3), 40 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    # Of two seconds, the frame of 0.3 s is shown until 1 s, that of 1 s until 1.9 s.
    assert numbers(ClipPart(path), 4) == [10, 15, 20, 20]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", 20)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:600])
    (tmp_path / "text.mp4").write_text("a dog")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for clip, said in (
        (ClipPart(tmp_path / "none.mp4"), "none.mp4: does not exist"),
        (ClipPart(tmp_path / "cut.mp4"), "cut.mp4: is not a clip, or is damaged, incomplete"),
        (ClipPart(tmp_path / "text.mp4"), "text.mp4: is not a clip"),
        (ClipPart(tmp_path / "sound.wav"), "sound.wav: has sound, but no video"),
        (ClipPart(whole, 5.0, 6.0), "whole.mp4: has no frames from 5 s to 6 s"),
        (ClipPart(whole, 1.0, 1.0), "whole.mp4: has no frames from 1 s to 1 s"),
    ):
        with pytest.raises(VideoError) as caught:
            read_frames(clip, 4)
        assert said in str(caught.value)


def test_bytes_are_those_of_a_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 20)
    assert numbers(ClipPart(path.read_bytes(), 0.5, 1.0), 5) == [5, 6, 7, 8, 9]
    frames = frames_of(path.read_bytes(), 2, 32)
    assert [round(float(np.asarray(frame).mean()) / 8) for frame in frames] == [5, 15]


def test_a_playlist_reads_no_other_file(tmp_path: Path) -> None:
    write(tmp_path / "secret.mp4", 20)
    playlist = tmp_path / "list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(VideoError, match="is not a clip"):
        read_frames(ClipPart(playlist), 2)


def test_the_end_of_an_incomplete_clip_is_its_last_whole_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_clip(path, [np.full((32, 48, 3), 8 * number, np.uint8) for number in range(20)], 10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    first, *_, last = numbers(ClipPart(path, 0.0, 2.0), 10)
    assert first == 1
    assert 5 <= last < 19


def test_photos_are_refused(tmp_path: Path) -> None:
    photo = EXAMPLES / "cat.jpg"
    with pytest.raises(ImageError, match="is a photo, and this model captions clips"):
        frames_of(photo, 2, 32)
    with pytest.raises(VideoError, match=r"is an image \(JPEG\); expected a clip"):
        frames_of(photo.read_bytes(), 2, 32)
