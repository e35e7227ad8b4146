"""Every command and example of docs/video.md does what it says."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from captioner.cli import main
from tests.clips import EXAMPLES, draw_clip

pytest.importorskip("av")

PAGE = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r"\s+#.*", "", line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of."""
    draw_clip(tmp_path / "clip.mp4", ("cat", 2.3), ("rocket", 1.2))
    (tmp_path / "holiday").mkdir()
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / "holiday")
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "holiday")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)[1:]) == 0
    output = re.search(r"--output (\S+)", command)
    assert (folder / output[1]).stat().st_size if output else capsys.readouterr().out


def test_the_line_that_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"^    (clip\.mp4\t.*)$", PAGE, re.MULTILINE)
    assert main(["caption", "clip.mp4"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == shown


def test_its_python(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/video.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
