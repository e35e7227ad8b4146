"""docs/confidence.md: its commands and its example do what they say."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main
from captioner.inference import Captioner
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
