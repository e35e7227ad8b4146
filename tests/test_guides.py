"""The commands and examples of the guides in docs/ work as described."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.checkpoint import BUNDLED
from captioner.cli import main, parse
from tests.hub.server import serve

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "pagoda.jpg"
LIBRARIES = (ROOT / "docs" / "photo-libraries.md").read_text(encoding="utf-8")
SHARING = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    lines = "".join(blocks(page, "sh")).splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the guides speak of."""
    (tmp_path / "holiday").mkdir()
    for name in ("photo.jpg", "holiday/1.jpg"):
        shutil.copy(PHOTO, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [line for line in commands(LIBRARIES) if " caption " in line])
def test_a_command_on_a_photo_library(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed, option in (("lxml", "--xmp"), ("lxml", "--embed"), ("pyarrow", "parquet")):
        if option in command:
            pytest.importorskip(needed)
    if "--embed" in command and shutil.which("exiftool") is None:
        pytest.skip("no ExifTool here")
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    made = {path.name for path in folder.rglob("*") if path.is_file()} - {"photo.jpg", "1.jpg"}
    expected = re.search(r"(?:--html|--output) (\S+)", command)
    assert (expected[1] if expected else "1.jpg") in {*made, *(name[:5] for name in made)}


def test_a_folder_is_watched_as_the_guide_says(folder: Path) -> None:
    (unit,) = blocks(LIBRARIES, "ini")
    service = configparser.ConfigParser()
    service.optionxform = str
    service.read_string(unit)
    program, *rest = shlex.split(service["Service"]["ExecStart"])
    assert Path(program).is_absolute() and Path(program).name == "captioner"
    calls = [shlex.split(line)[1:] for line in commands(LIBRARIES) if " watch " in line]
    for call in (*calls, rest):
        assert parse(call).run.__module__ == "captioner.commands.watch"
    assert len(calls) == 2


def test_the_service_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    (unit,) = blocks(LIBRARIES, "ini")
    assert "ExecStart=/opt/captioner/bin/captioner watch " in unit
    # It checks that the program is there, whatever it is.
    path = tmp_path / "captioner-watch.service"
    for program, status in ((sys.executable, 0), ("/nowhere/captioner", 1)):
        path.write_text(unit.replace("/opt/captioner/bin/captioner", program))
        call = [analyze, "verify", "--man=no", str(path)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if path.name in line]
        assert (done.returncode, len(said)) == (status, status), done.stderr


@pytest.mark.slow
def test_a_model_is_shared_as_the_guide_says(folder: Path) -> None:
    pytest.importorskip("huggingface_hub")
    shutil.copytree(BUNDLED, folder / "runs" / "tiny" / "best")
    pushing = [line for line in commands(SHARING) if " push " in line]
    using = [line for line in commands(SHARING) if " push " not in line]
    (example,) = blocks(SHARING, "python")
    with serve() as hub:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "cache"),
            "HF_TOKEN": "hf_none",
            "HF_HUB_DISABLE_XET": "1",
        }
        calls = [[sys.executable, "-m", *shlex.split(line)] for line in (*pushing, *using)]
        for call in (*calls, [sys.executable, "-c", example]):
            done = subprocess.run(
                call, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
