"""captioner contacts no server, and writes only to the given folders."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CALLS = (
    "socket,connect,bind,sendto,sendmsg,openat,open,creat,mkdir,mkdirat,"
    "rename,renameat,renameat2,link,symlink"
)
ADDRESS = re.compile(r'inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)"')
OPENED = r'open(?:at)?\([^"]*"([^"]*)", [^)]*O_(?:WRONLY|RDWR|CREAT)[^)]*\) = \d'
WRITTEN = re.compile(OPENED + r'|mkdir(?:at)?\([^"]*"([^"]*)".*= 0')
LOOPBACK = {"127.0.0.1", "::1", "::", "0.0.0.0"}


def variables(code: str, **environment: str) -> dict[str, str]:
    """The environment of a process after some code."""
    names = ("ORT_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    code = f"import json, os\n{code}\nprint(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(result.stdout))


def test_telemetry_is_off_before_onnx_runtime_is_imported() -> None:
    seen = """
import builtins, sys
original = builtins.__import__
def importing(name, *args, **kwargs):
    if name.partition(".")[0] == "onnxruntime" and "onnxruntime" not in sys.modules:
        assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "too late"
        os.environ["SEEN"] = "yes"
    return original(name, *args, **kwargs)
builtins.__import__ = importing
import captioner.backends.onnx
"""
    assert variables(seen)["SEEN"] == "yes"


def test_the_users_own_choice_stands() -> None:
    after = variables("import captioner", ORT_DISABLE_TELEMETRY="0")
    assert (after["ORT_DISABLE_TELEMETRY"], after["GRADIO_ANALYTICS_ENABLED"]) == ("0", "False")


class Trace:
    """The system calls of commands that run in a folder of their own, with an empty home."""

    def __init__(self, folder: Path) -> None:
        self.home, self.given = folder / "home", folder / "given"
        self._temporary, self._calls = folder / "tmp", folder / "calls"
        for path in (self.home, self.given, self._temporary):
            path.mkdir()

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("XDG_")
        }
        environment |= {
            "HOME": str(self.home),
            "TMPDIR": str(self._temporary),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        strace = [
            "strace",
            "-f",
            "-qq",
            "-s",
            "300",
            "-e",
            f"trace={CALLS}",
            "-o",
            str(self._calls),
        ]
        command = [*strace, sys.executable, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.given, env=environment, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: object) -> None:
        process = self.start(*arguments)
        process.communicate()
        assert process.returncode == 0

    def addresses(self) -> set[str]:
        """Whom the processes spoke to, or listened at, over a network."""
        return {
            first or second for line in self._lines() for first, second in ADDRESS.findall(line)
        }

    def sockets(self) -> list[str]:
        return [line for line in self._lines() if re.search(r"socket\((?!AF_UNIX)", line)]

    def written(self) -> set[str]:
        """Files opened for writing and folders created, outside of the given ones."""
        allowed = (self.given, self._temporary, Path("/dev"), Path("/proc"))
        paths = {
            Path(first or second)
            for line in self._lines()
            for first, second in WRITTEN.findall(line)
        }
        paths = {path for path in paths if path.is_absolute()}
        return {
            str(path)
            for path in paths
            if not any(path.is_relative_to(folder) for folder in allowed)
        }

    def _lines(self) -> Iterator[str]:
        with open(self._calls, encoding="utf-8", errors="replace") as file:
            yield from file


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace = Trace(tmp_path)
    yield trace
    assert not trace.written()
    assert not list(trace.home.rglob("*"))


@pytest.fixture
def photo(trace: Trace) -> Path:
    path = trace.given / "photo.jpg"
    Image.open(ROOT / "examples" / "cat.jpg").save(path)
    return path


@pytest.mark.slow
def test_captioning_opens_no_socket(trace: Trace, photo: Path) -> None:
    trace.run("-m", "captioner", "caption", photo, "--output", "captions.txt")
    assert not trace.sockets()


@pytest.mark.slow
def test_explaining_opens_no_socket(trace: Trace, photo: Path) -> None:
    pytest.importorskip("matplotlib")
    trace.run("-m", "captioner", "explain", photo, "--output", "figure.png")
    assert not trace.sockets()


@pytest.mark.slow
def test_evaluating_opens_no_socket(trace: Trace, photo: Path) -> None:
    pytest.importorskip("pycocotools")
    (trace.given / "captions.csv").write_text(
        "image,caption\nphoto.jpg,a dog sits on a bench\n", encoding="utf-8"
    )
    trace.run("-m", "captioner", "evaluate", "--annotations", "captions.csv", "--output", "report")
    assert not trace.sockets()


@pytest.mark.slow
def test_training_speaks_to_nobody(trace: Trace) -> None:
    pytest.importorskip("lightning")
    trace.run(
        ROOT / "scripts" / "train.py",
        f"--config={ROOT / 'configs' / 'tiny.yaml'}",
        "--data.draw_shapes=20",
        "--data.batch_size=8",
        "--data.preprocessing.size=64",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    )
    assert trace.addresses() <= LOOPBACK


@pytest.mark.slow
def test_the_demo_speaks_to_its_visitors_alone(trace: Trace, photo: Path) -> None:
    pytest.importorskip("gradio")
    process = trace.start("-m", "captioner", "demo")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[4]
        assert urllib.request.urlopen(url).status == 200
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="photo.jpg"\r\n\r\n'
        request = urllib.request.Request(
            f"{url}/gradio_api/upload", body + photo.read_bytes() + b"\r\n--x--\r\n"
        )
        request.add_header("Content-Type", "multipart/form-data; boundary=x")
        assert json.load(urllib.request.urlopen(request))
    finally:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0
    assert trace.addresses() <= LOOPBACK
