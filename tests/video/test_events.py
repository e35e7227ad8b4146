"""Events of clips: windows over the whole clip, both backends, and the command."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from captioner.cli import main
from captioner.errors import CheckpointError, ConfigError, VideoError
from captioner.events.config import EventConfig
from captioner.events.timeline import find_events
from captioner.images.clips import ClipPart
from captioner.inference import Captioner
from captioner.video.events import scan
from captioner.video.parts import Steps, read_frames
from captioner.video.subtitles import time_span
from tests.clip_models import save_clip_model
from tests.clips import draw_clip

pytest.importorskip("av")

EVENTS = EventConfig(("moves", "grows"), 1.5)  # three frames: steps of half a second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_model(tmp_path_factory.mktemp("model") / "model", "lrcn", events=EVENTS)


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.from_pretrained(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 4.9 seconds: three windows, and a last one of two steps, of which one is cut."""
    parts = (("cat", 1.2), ("rocket", 2.1), ("coffee", 1.6))
    return draw_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", *parts)


def test_each_step_has_the_frame_in_its_middle(clip: Path) -> None:
    steps = Steps(clip, 0.5)
    assert steps.duration == pytest.approx(4.9)
    frames = list(steps)
    assert len(frames) == len(steps) == 10
    for index, frame in enumerate(frames[:9]):
        (expected,) = read_frames(ClipPart(clip, 0.5 * index, 0.5 * (index + 1)), 1)
        assert frame.tobytes() == expected.tobytes()
    assert len(list(Steps(clip, 60))) == 1, "a clip shorter than half a step has one"


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_clip_is_seen_window_by_window(captioner: Captioner, clip: Path, batch_size: int) -> None:
    seen = scan(captioner, clip, batch_size=batch_size)
    assert (seen.step, seen.labels) == (0.5, EVENTS.labels)
    expected = []
    for start in (0.0, 1.5, 3.0):
        frames = read_frames(ClipPart(clip, start, start + 1.5), 3)
        pixels = np.stack([captioner.preprocessing(frame) for frame in frames])[None]
        logits = captioner.backend.encode(pixels).events
        assert logits is not None
        expected.append(1 / (1 + np.exp(-logits[0])))
    assert seen.probabilities.shape == (10, 2)
    np.testing.assert_allclose(seen.probabilities[:9], np.concatenate(expected), atol=1e-5)
    assert seen.events(0.4) == find_events(
        seen.probabilities, EVENTS.labels, step=0.5, duration=seen.duration, threshold=0.4
    )


def test_both_backends_tell_the_same(folder: Path, clip: Path) -> None:
    onnx, torch = (
        scan(Captioner.from_pretrained(folder, backend=name), clip).probabilities
        for name in ("onnx", "torch")
    )
    np.testing.assert_allclose(onnx, torch, atol=1e-4)
    assert np.ptp(onnx) > 0.01, "it has opinions"


def test_the_command_prints_a_line_for_each_event(
    folder: Path, captioner: Captioner, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threshold = float(np.median(scan(captioner, clip).probabilities))
    events = scan(captioner, clip).events(threshold)
    assert events
    call = ["events", str(clip), "--model", str(folder), "--threshold", str(threshold)]
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{clip}\t{time_span(each.start, each.end)}\t{each.label}\t{each.probability:.2f}"
        for each in events
    ]
    assert main([*call, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "path": str(clip),
        "duration": 4.9,
        "events": [each.to_dict() for each in events],
    }


def test_names_that_the_terminal_cannot_write(
    folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "é.mp4"
    name.write_bytes(clip.read_bytes())
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["events", str(name), "--model", str(folder), "--json"]) == 0
    assert json.loads(terminal.buffer.getvalue())["path"] == str(name)  # type: ignore[attr-defined]


def test_a_clip_that_cannot_be_read_leaves_the_others(
    folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    call = ["events", str(tmp_path / "bad.mp4"), str(clip), "--model", str(folder), "--json"]
    assert main(call) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / 'bad.mp4'}: ")
    assert [json.loads(line)["path"] for line in captured.out.splitlines()] == [str(clip)]
    with pytest.raises(VideoError):
        scan(Captioner.from_pretrained(folder), tmp_path / "bad.mp4")


def test_what_tells_no_events_is_refused(
    folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = save_clip_model(tmp_path / "plain", "attention", onnx=False)
    for model in (["--model", str(plain)], []):  # one of clips, and the bundled one of photos
        assert main(["events", str(clip), *model]) == 2
        assert "This model recognises no events" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="batch_size is 0"):
        scan(Captioner.from_pretrained(folder), clip, batch_size=0)
    both = Captioner.from_pretrained([folder, folder])
    with pytest.raises(ConfigError, match="recognises no events"):
        scan(both, clip)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Give either clips, or a table with --annotations"),
        (["clip.mp4", "--annotations", "events.csv"], "Give either clips, or a table"),
        (["clip.mp4", "--clips", "clips"], "give it with --annotations"),
        (["--annotations", "events.csv", "--threshold", "0.8"], "average precision has none"),
        (["clip.mp4", "--threshold", "0"], "threshold is 0"),
        (["clip.mp4", "--model", "a", "--model", "b"], "expected one --model"),
    ],
)
def test_wrong_calls_are_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_says_what_its_events_are(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 3
    assert config["events"] == {"labels": ["moves", "grows"], "seconds": 1.5}
    for name in folder.iterdir():
        (tmp_path / name.name).symlink_to(name)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "events": {"labels": []}}))
    with pytest.raises(CheckpointError, match="events has the keys"):
        Captioner.from_pretrained(tmp_path)
