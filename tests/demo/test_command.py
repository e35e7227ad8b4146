"""`captioner demo` and `python demo/app.py`."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def call(*args: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "captioner", "demo", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )


def test_without_gradio_it_says_what_to_install():
    code = (
        "import sys; sys.modules['gradio'] = None; from captioner.cli import main;"
        " sys.exit(main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("pip install 'captioner[demo]'")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "nowhere"], "The checkpoint nowhere does not exist"),
        (["--port", "70000"], "port is 70000; expected 1 to 65535."),
        (["--port", "{taken}"], "port {taken}: the port is in use"),
        (["photo.jpg"], "Unexpected argument photo.jpg."),
    ],
)
def test_a_wrong_call_gets_one_sentence(args, said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        done = call(*(arg.format(taken=taken) for arg in args))
    assert done.returncode == 2
    assert said.format(taken=taken) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "end"),
    [(["-m", "captioner", "demo"], signal.SIGINT), (["demo/app.py"], signal.SIGTERM)],
)
def test_it_serves_until_it_is_told_to_end_and_leaves_nothing_behind(tmp_path, command, end):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    demo = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert (
            demo.stdout.readline() == f"The demo is at http://127.0.0.1:{port} (Ctrl-C stops it)\n"
        )
        answer = httpx.post(
            f"http://127.0.0.1:{port}/gradio_api/upload",
            files={"files": ("mine.bin", b"secret")},
            timeout=60,
        )
        (path,) = answer.json()
        assert Path(path).is_relative_to(tmp_path)
        assert Path(path).read_bytes() == b"secret"
        demo.send_signal(end)
        assert demo.wait(timeout=60) == 0
    finally:
        demo.kill()
        _, stderr = demo.communicate()
    assert not stderr
    assert not list(tmp_path.glob("captioner-demo-*"))
    assert not list(tmp_path.rglob("mine.bin"))
