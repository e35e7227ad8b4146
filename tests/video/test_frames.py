"""Frames of clips: timestamps, orientation, and the errors of unreadable clips."""

import logging
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ConfigError, VideoError
from captioner.video import frames as room
from captioner.video.frames import Frames
from tests.clips import draw_clip, grey_levels, still, write_clip, write_timed

av = pytest.importorskip("av")


def level(frame: room.Frame) -> int:
    """Which of `grey_levels` a frame is."""
    return round((float(np.asarray(frame.image).mean()) - 10) / 4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
def test_frames_are_those_at_the_steps(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_clip(path, grey_levels(48), 20)
    found = list(clip := Frames(path))
    assert [frame.time for frame in found] == pytest.approx([0, 0.5, 1, 1.5, 2], abs=1e-3)
    assert [level(frame) for frame in found] == [0, 10, 20, 30, 40]
    assert clip.end == pytest.approx(2.4, abs=0.06)
    assert [level(frame) for frame in Frames(path.read_bytes(), every=0.7)] == [0, 14, 28, 42]


def test_a_variable_frame_rate_goes_by_timestamps(tmp_path: Path) -> None:
    times = [5.0, 5.1, 5.2, 5.49, 5.51, 8.0, 8.1, 8.6]  # which begin late, and have a gap
    path = write_timed(tmp_path / "clip.mkv", times, list(grey_levels(len(times))))
    found = list(Frames(path))
    assert [round(frame.time, 3) for frame in found] == [0, 0.51, 3, 3.6]
    assert [level(frame) for frame in found] == [0, 4, 5, 7]


def test_a_change_is_placed_on_the_first_frame_behind_it(tmp_path: Path) -> None:
    path = draw_clip(tmp_path / "clip.mp4", ("cat", 1.3), ("rocket", 1.2))
    assert [round(frame.change, 3) for frame in Frames(path)][3] == 1.3


@pytest.mark.parametrize(("degrees", "turned"), [(90, 3), (180, 2), (270, 1)])
def test_frames_are_upright(tmp_path: Path, degrees: int, turned: int) -> None:
    """The matrix of a track's header (ISO/IEC 14496-12, 8.3.2) turns clockwise; `rot90` doesn't."""
    (photo,) = still("rocket", 0.1, (64, 48))
    path = tmp_path / "clip.mp4"
    write_clip(path, [photo] * 3, 10)
    plain = np.asarray(next(iter(Frames(path))).image)
    data = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000]
    numbers = [0x10000 * value for value in matrix[:8]] + [0x40000000]
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(data)
    seen = np.asarray(next(iter(Frames(path))).image)
    np.testing.assert_array_equal(seen, np.rot90(plain, turned))


def test_pixels_are_made_square_and_large_frames_smaller(tmp_path: Path) -> None:
    pixels = np.zeros((120, 90, 3), np.uint8)
    path = tmp_path / "clip.mp4"
    write_timed(path, [0.0, 0.1], [pixels, pixels], sample_aspect_ratio=Fraction(2, 1))
    assert next(iter(Frames(path))).image.size == (180, 120)
    assert next(iter(Frames(path, size=20))).image.size == (60, 40)


def test_a_long_clip_is_looked_at_a_limited_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, grey_levels(60), 10)  # a key frame at the beginning alone, by default
    monkeypatch.setattr(room, "MOST", 4)
    clip = Frames(path)
    assert clip.step == pytest.approx(1.5)
    assert [level(frame) for frame in clip] == [0]
    assert clip.end == pytest.approx(6), "frames that aren't decoded last, too"
    assert not caplog.messages
    assert len(list(Frames(path, every=0.5))) == 12


def test_a_clip_that_lasts_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, grey_levels(40), 10)
    with pytest.raises(VideoError, match=r"clip\.mp4: is too long: expected at most 0\.05 minutes"):
        Frames(path, longest=3)
    assert len(list(Frames(path, longest=4))) == 8


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), True, "2"])
def test_steps_are_lengths_of_time(every: object) -> None:
    with pytest.raises(ConfigError, match="expected a number of seconds"):
        Frames("clip.mp4", every=every)  # type: ignore[arg-type]


def with_sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def without_frames(path: Path) -> None:
    write_clip(path, grey_levels(3), 10)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    path.write_bytes(data[:start] + bytes(size) + data[start + size :])


def encrypted(path: Path) -> None:
    keys = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "11" * 16,
        "encryption_kid": "22" * 16,
    }
    with av.open(str(path), "w", options=keys) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in grey_levels(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def of_an_unknown_codec(path: Path) -> None:
    write_clip(path, grey_levels(3), 10)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def cut_off(path: Path) -> None:
    write_clip(path, grey_levels(30), 10)  # what says where frames lie stands at the end
    path.write_bytes(path.read_bytes()[:-400])


def playlist(path: Path) -> None:
    other = path.with_name("secret.mp4")
    write_clip(other, grey_levels(3), 10)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")


def concatenation(path: Path) -> None:
    other = path.with_name("secret.mp4")
    write_clip(other, grey_levels(3), 10)
    path.write_text(f"ffconcat version 1.0\nfile {other.name}\n")


def photo(path: Path) -> None:
    Image.new("RGB", (64, 48)).save(path, "JPEG")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder: expected a clip"),
        (lambda path: path.touch(), "is not a clip, or is damaged"),
        (lambda path: path.write_text("dear diary\n" * 99), "is not a clip, or is damaged"),
        (with_sound_alone, "has sound, but no video"),
        (without_frames, "has no frame that can be decoded"),
        (encrypted, "is encrypted: expected"),
        (of_an_unknown_codec, "is encrypted or uses an unsupported codec"),
        (cut_off, "is not a clip, or is damaged"),
        (playlist, "is not a clip, or is damaged"),
        (concatenation, "is not a clip, or is damaged"),
        (photo, r"is an image \(JPEG\) with the suffix of a clip"),
    ],
)
def test_what_is_wrong_with_a_clip_is_said(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(VideoError, match=rf"clip\.mp4: {reason}"):
        list(Frames(path))


def test_a_url_is_not_fetched() -> None:
    with pytest.raises(VideoError, match="is a URL: download the clip first"):
        Frames("http://localhost/clip.mp4")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "can_read_clips", lambda: False)
    with pytest.raises(VideoError, match=r"pip install 'captioner\[video\]'"):
        Frames(tmp_path / "clip.mp4")


def test_what_an_incomplete_clip_has_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clip.mkv"
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    write_clip(path, noise, 10, codec="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        found = list(Frames(path))
    assert 2 < len(found) < 12
    assert "clip.mkv: " in caplog.text
    assert "of 6.0 seconds" in caplog.text
