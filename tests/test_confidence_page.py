"""docs/confidence.md: its commands, its example and the script of its measurements."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main
from captioner.inference import Captioner
from scripts import measure_confidence
from tests.annotated import annotate

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "confidence.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()


@pytest.fixture
def folder(
    tmp_path: Path,
    checkpoint_folder: Path,
    captioner: Captioner,
    picture: Callable[[int], Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    for place, photo in (("holiday/1.jpg", "cat"), ("holiday/more/2.jpg", "astronaut")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / f"{photo}.jpg", tmp_path / place)
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    annotate(captioner, picture, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "captioner"
        assert main(arguments) == 0, capsys.readouterr().err
    assert Captioner.from_pretrained("model").confidence is not None


def test_its_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/confidence.md", "exec"), {})
    confidences = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(confidences) == 2 and all(0 < confidence < 1 for confidence in confidences)


def test_its_figures_are_there() -> None:
    figures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
    assert figures and all((ROOT / "docs" / figure).is_file() for figure in figures)


def test_the_figures_of_confidence_are_measured_anew(
    checkpoint_folder: Path,
    captioner: Captioner,
    picture: Callable[[int], Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(checkpoint_folder, tmp_path / "model")
    file = annotate(captioner, picture, tmp_path)
    page = tmp_path / "confidence.md"
    call = ["--model", model, "--set", "blobs", file, tmp_path, "plain", "--docs", tmp_path]
    page.write_text("# Confidence\n", encoding="utf-8")
    assert measure_confidence.main([*map(str, call)]) == 2
    assert "has no markers <!-- measured: begin -->" in capsys.readouterr().err
    before, after = "# Confidence\n\n", "\n\n## More\n"
    marks = "<!-- measured: begin -->", "<!-- measured: end -->"
    page.write_text(f"{before}{marks[0]}\nold\n{marks[1]}{after}", encoding="utf-8")
    config = (model / "config.json").read_bytes()
    assert measure_confidence.main([*map(str, call)]) == 0
    assert (model / "config.json").read_bytes() == config, "it was not told to write"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(before + marks[0]) and text.endswith(marks[1] + after)
    assert "old" not in text and "| confidence, blobs | 60 |" in text
    rows = re.findall(r"^\| (\d+)% \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(share) for share, _, _ in rows] == [100, 90, 80, 70, 60, 50, 40, 30]
    assert rows[0][1] == rows[0][2], "all captions, in whichever order"
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["confidence_blobs.svg", "risk_blobs.svg", "tags_blobs.svg"]
    assert measure_confidence.main([*map(str, call), "--write"]) == 0
    assert Captioner.from_pretrained(model).confidence is not None
