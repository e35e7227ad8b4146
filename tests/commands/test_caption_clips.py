"""`captioner caption` on clips, and on folders of photos and clips."""

import json
import shutil
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.inference import Captioner
from captioner.video import formats
from captioner.video.clip import Clip
from captioner.video.subtitles import subtitles, time_span
from tests.clips import EXAMPLES, draw_clip

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photo, a clip and another photo, in this order."""
    folder = tmp_path_factory.mktemp("holiday")
    shutil.copy(EXAMPLES / "cat.jpg", folder / "a.jpg")
    draw_clip(folder / "b.mp4", ("coffee", 1.2), ("rocket", 1.3))
    shutil.copy(EXAMPLES / "rocket.jpg", folder / "c.jpg")
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Captioner.from_pretrained().caption_video(folder / "b.mp4")


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def rows_of(name: str, clip: Clip) -> str:
    return "".join(
        f"{name}\t{time_span(shot.start, shot.end)}\t{shot.caption.text}\n" for shot in clip.shots
    )


def test_a_clip_gives_a_line_for_each_shot(clip: Clip, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", "b.mp4"]) == 0
    assert capsys.readouterr().out == rows_of("b.mp4", clip)
    assert len(clip.shots) == 2


def test_the_summary_stands_alone(clip: Clip, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", "b.mp4", "--summary"]) == 0
    assert capsys.readouterr().out == f"{clip.summary.text}\n"


def test_subtitles_are_printed_or_written(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", "b.mp4", "--format", "vtt"]) == 0
    assert capsys.readouterr().out == subtitles(clip.shots, "vtt")
    path = tmp_path / "b.srt"
    call = ["caption", "b.mp4", "--format", "srt", "--output", str(path)]
    assert main(call) == 0
    assert path.read_text(encoding="utf-8") == subtitles(clip.shots, "srt")
    assert main(call) == 2
    assert "already exists, and such a file cannot be resumed" in capsys.readouterr().err


def test_photos_and_clips_of_a_folder_go_to_a_file_that_can_be_resumed(
    clip: Clip, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "captions.tsv"
    call = ["caption", str(folder), "--output", str(path)]
    assert main(call) == 0
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    assert "".join(lines[1:3]) == rows_of(str(folder / "b.mp4"), clip)
    assert len(lines) == 4
    path.write_text("".join(lines[:3]))
    assert main(call) == 0
    assert path.read_text() == whole
    assert "captions of 2 images" in capsys.readouterr().err
    assert main([*call, "--every", "1"]) == 2
    assert "with other options: every None, now 1.0" in capsys.readouterr().err


def test_json_has_the_sentence_for_all_and_the_shots(
    clip: Clip, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", "b.mp4", "c.jpg", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"path": "b.mp4", **clip.to_dict()}
    assert second.keys() == {"path", "caption", "log_prob", "alternatives", "tags", "confidence"}


def test_without_the_extra_clips_of_a_folder_are_left_out_and_named_ones_fail(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(formats, "can_read_clips", lambda: False)
    found = [path.name for path in formats.find_media(folder)]
    assert found == ["a.jpg", "c.jpg"]
    assert "skipped 1 clip" in caplog.text
    assert "captioner[video]" in caplog.text


def test_clips_of_a_folder_that_an_option_leaves_out_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "captions.csv"
    assert main(["caption", str(folder), "--output", str(table)]) == 0
    assert len(table.read_text(encoding="utf-8-sig").splitlines()) == 3
    assert f"{folder}: skipped 1 clip; --format csv applies to photos." in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["b.mp4", "--every", "0"], "every is 0.0; expected a number of seconds"),
        (["b.mp4", "--every", "1", "--summary"], "--every cannot be combined with --summary"),
        (["b.mp4", "b.mp4", "--format", "srt"], "expected a single clip"),
        (["a.jpg", "--format", "srt"], "expected a single clip"),
        (
            [".", "--format", "vtt"],
            "--format vtt writes the subtitles of one clip; expected a single clip",
        ),
        (["a.jpg", "--output", "x.srt"], "--output x.srt writes the subtitles of one clip"),
        (["b.mp4", "--format", "vtt", "--json"], "--json cannot be combined with --format vtt"),
        (["b.mp4", "--output", "x.mp4"], "would overwrite a clip"),
        (["b.mp4", "--save-attention", "maps"], "applies to photos, not to clips"),
    ],
)
def test_conflicting_options_are_reported(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_damaged_clip_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "diary.mp4"
    path.write_text("dear diary")
    said = []
    for options in ([], ["--format", "srt"], ["--output", str(tmp_path / "diary.vtt")]):
        assert main(["caption", str(path), *options]) == 1
        said.append(capsys.readouterr().err)
    assert said[0].startswith(f"error: {path}: is not a clip, or is damaged")
    assert said == [said[0]] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_photos_may_be_called_like_a_clip(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stills.mp4").mkdir()
    shutil.copy(folder / "a.jpg", tmp_path / "stills.mp4")
    call = ["caption", str(tmp_path / "stills.mp4")]
    assert main([*call, "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    assert main([*call, "--format", "srt"]) == 2
    assert "expected a single clip" in capsys.readouterr().err
