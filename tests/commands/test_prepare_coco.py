"""`captioner prepare-coco`, run like a user does."""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner.datasets.coco import COCO
from tests.datasets.server import Server, serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def start(*args: object, stderr: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    def heed_interrupts() -> None:  # whoever runs the tests in the background has them ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "captioner", "prepare-coco", *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        preexec_fn=heed_interrupts if os.name != "nt" else None,
    )


def run(*args: object) -> tuple[int, str, str]:
    with start(*args) as process:
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.mark.parametrize(
    "args", [["--mirror", "nonsense"], ["--year", "2015"], ["--only", "videos"], ["somewhere"]]
)
def test_a_wrong_call_ends_with_2(args: list[str], tmp_path: Path) -> None:
    status, stdout, stderr = run(*args, "--folder", tmp_path)
    assert (status, stdout) == (2, "")
    assert args[-1] in stderr
    assert not list(tmp_path.iterdir())


def test_the_script_is_the_command(tmp_path: Path) -> None:
    said = []
    for command in (["-m", "captioner", "prepare-coco"], [str(ROOT / "scripts/prepare_coco.py")]):
        call = [
            sys.executable,
            *command,
            "--mirror",
            tmp_path.as_uri(),
            "--folder",
            str(tmp_path / "coco"),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        stderr = re.sub(r"[\d.]+ GB", "some GB", done.stderr)  # others may write to a full disk
        said.append((done.returncode, done.stdout, stderr))
    assert said[0] == said[1]
    assert said[0][0] == 1 and "error: " in said[0][2]


@pytest.mark.parametrize("year", COCO)
def test_a_mirror_with_other_files_is_refused(server: Server, tmp_path: Path, year: int) -> None:
    archive = COCO[year][0]
    args = ["--year", year, "--only", "annotations", "--mirror", server.url, "--folder", tmp_path]
    status, stdout, stderr = run(*args)
    assert (status, stdout) == (1, "")
    assert (
        stderr.splitlines()[-1].startswith(f"error: {server.url}/{archive.path}: ")
        and "404" in stderr
    )
    server.files = {archive.path: b"another file"}
    status, stdout, stderr = run(*args)
    assert (status, stdout) == (1, "")
    assert f"expected {archive.size:,} bytes, server reports 12." in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".zip", ".part"))]


@pytest.mark.skipif(os.name == "nt", reason="signals and terminals of Unix")
@pytest.mark.parametrize("terminal", [False, True])
def test_an_interrupted_call_says_how_to_resume(
    server: Server, tmp_path: Path, terminal: bool
) -> None:
    first = COCO[2017][0]
    server.files, server.claims = {first.path: bytes(30_000_000)}, first.size
    server.stalls = threading.Event()
    reader, writer = os.openpty() if terminal else os.pipe()
    args = ["--year", 2017, "--only", "annotations", "--mirror", server.url, "--folder", tmp_path]
    part = tmp_path / f"downloads/{first.name}.part"
    said = b""
    with start(*args, stderr=writer) as process:
        deadline = time.monotonic() + 60
        while b"10 %" not in said and "━".encode() not in said and time.monotonic() < deadline:
            if select.select([reader], [], [], 0.05)[0]:
                said += os.read(reader, 10_000)
        process.send_signal(signal.SIGINT)
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([reader], [], [], 0.05)[0]:
                said += os.read(reader, 10_000)
    while select.select([reader], [], [], 0)[0]:
        said += os.read(reader, 10_000)
    os.close(reader), os.close(writer)
    text = said.decode()
    assert process.returncode == 130
    assert "run the same command again to resume" in text and "Traceback" not in text
    assert ("━" in text) == terminal
    assert "Downloading annotations_trainval2017.zip" in text
    assert part.stat().st_size
