"""Timelines by models of clips: their shots, captioned from several frames each; no photos."""

from pathlib import Path

import pytest

from captioner.cli import main
from captioner.errors import ImageError, VideoError
from captioner.images.clips import ClipPart
from captioner.inference import Captioner
from captioner.video.mixed import stream_mixed
from captioner.video.timeline import _colors
from tests.clip_models import save_clip_model
from tests.clips import EXAMPLES, draw_clip, still

pytest.importorskip("av")

PARTS = (("cat", 2.3), ("rocket", 1.5), ("coffee", 1.2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_model(tmp_path_factory.mktemp("model") / "model", "attention", onnx=False)


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.from_pretrained(folder)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", *PARTS)


@pytest.mark.parametrize("every", [None, 1.2])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_each_shot_is_captioned_as_a_clip(
    captioner: Captioner, path: Path, every: float | None, as_bytes: bool
) -> None:
    source = path.read_bytes() if as_bytes else path
    clip = captioner.caption_video(source, every=every, batch_size=2)
    alone = {
        span: captioner.caption_clip(ClipPart(path, *span))
        for span in [(shot.start, shot.end) for shot in clip.shots]
    }
    assert clip.duration == pytest.approx(5)
    if every is not None:
        assert [shot.start for shot in clip.shots] == pytest.approx([0, 1.2, 2.4, 3.6, 4.8])
    for shot in clip.shots:
        assert shot.caption.text == alone[shot.start, shot.end].text
        assert shot.caption.log_prob == pytest.approx(
            alone[shot.start, shot.end].log_prob, abs=1e-4
        )
    assert str(clip) in {shot.caption.text for shot in clip.shots}


def test_evidence_of_a_clip_is_refused(
    folder: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(path), "--evidence", "--model", str(folder)]) == 2
    assert "error: Evidence is not supported for models of clips" in capsys.readouterr().err


def test_shots_are_those_that_were_drawn(
    captioner: Captioner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.video.timeline.merge", tuple)  # random weights say much the same
    clip = captioner.caption_video(path)
    times = [(shot.start, shot.end) for shot in clip.shots]
    assert times == [pytest.approx(span) for span in [(0, 2.3), (2.3, 3.8), (3.8, 5)]]


def test_what_moves_changes_no_colors() -> None:
    from PIL import Image

    def frame(x: int) -> Image.Image:
        image = Image.new("RGB", (96, 96), "gray")
        image.paste("red", (x, 20, x + 30, 50))
        return image

    assert float(_colors(frame(0)) @ _colors(frame(60))) > 0.99
    photos = [Image.fromarray(still(name, 0.1)[0]) for name in ("cat", "rocket")]
    assert float(_colors(photos[0]) @ _colors(photos[1])) < 0.7
    assert float(_colors(photos[0]) @ _colors(photos[0])) == pytest.approx(1)


def test_photos_are_errors_of_their_own(
    captioner: Captioner, folder: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = EXAMPLES / "cat.jpg"
    results = list(stream_mixed(captioner, [photo, path, "missing.mp4"]))
    assert isinstance(results[0], ImageError)
    assert isinstance(results[2], VideoError)
    assert str(results[1]) == str(captioner.caption_video(path))
    assert main(["caption", str(photo), "--model", str(folder), "--backend", "torch"]) == 1
    assert "is a photo, and this model captions clips" in capsys.readouterr().err
    assert main(["caption", str(path), "--model", str(folder), "--summary"]) == 0
    assert capsys.readouterr().out.strip() == str(results[1])
