"""`captioner watch` as a process: new photos, SIGTERM, resuming."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main

ROOT = Path(__file__).parents[2]


@contextmanager
def watching(*args: object) -> Iterator["subprocess.Popen[str]"]:
    """Runs the command, then ends it by SIGTERM, as systemd does."""
    command = [sys.executable, "-m", "captioner", "watch", *map(str, args), "--interval", "0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it never happened")


def names_in(table: Path) -> list[str]:
    """The names of the photos in a table of captions, which may not exist yet."""
    lines = table.read_text().splitlines() if table.exists() else []
    return [Path(line.partition("\t")[0]).name for line in lines]


def test_new_photos_are_captioned_also_after_a_restart(
    tmp_path: Path, checkpoint_folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    incoming, output = tmp_path / "incoming", tmp_path / "captions.tsv"
    incoming.mkdir()
    names = partial(names_in, output)
    call = (incoming, "--output", output, "--model", checkpoint_folder)
    picture(0).save(incoming / "0.png")
    with watching(*call) as process:
        wait_for(lambda: names() == ["0.png"], process)
        picture(1).save(tmp_path / "1.png")
        content = (tmp_path / "1.png").read_bytes()
        (incoming / "1.png").write_bytes(content[: len(content) // 2])
        picture(2).save(incoming / "2.png")
        wait_for(lambda: names() == ["0.png", "2.png"], process)  # 1 is not whole
        (incoming / "1.png").write_bytes(content)
        wait_for(lambda: names() == ["0.png", "2.png", "1.png"], process)
    picture(3).save(incoming / "3.png")
    with watching(*call) as process:
        wait_for(lambda: names() == ["0.png", "2.png", "1.png", "3.png"], process)


def test_a_caption_that_could_not_be_saved_is_tried_again(
    tmp_path: Path, checkpoint_folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    pytest.importorskip("lxml")
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    first, second = (tmp_path / f"{number}.png.xmp" for number in range(2))
    first.write_text("damaged")
    with watching(tmp_path, "--xmp", "--model", checkpoint_folder) as process:
        wait_for(second.exists, process)
        assert first.read_text() == "damaged"
        first.unlink()
        wait_for(first.exists, process)


@pytest.mark.skipif(sys.platform != "linux", reason="changes the limits of a running process")
def test_rows_that_a_full_disk_refused_are_written_later(
    tmp_path: Path, checkpoint_folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    import resource

    incoming, output = tmp_path / "incoming", tmp_path / "captions.tsv"
    incoming.mkdir()
    names = partial(names_in, output)
    picture(0).save(incoming / "0.png")
    with watching(incoming, "--output", output, "--model", checkpoint_folder) as process:
        wait_for(lambda: names() == ["0.png"], process)
        limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        full = (output.stat().st_size + 5, limits[1])  # room for a part of a row
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, full)
        for number in (1, 2):
            picture(number).save(incoming / f"{number}.png")
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        said = [next(line for line in lines if "cannot save its caption" in line) for _ in range(2)]
        assert "1.png" in said[0] and "2.png" in said[1]
        assert names() == ["0.png"]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        wait_for(lambda: names() == ["0.png", "1.png", "2.png"], process)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["."], "No place to save captions"),
        ([".", "--output", "captions.parquet"], "parquet files cannot be written"),
        (["nowhere", "--xmp"], "is not a folder"),
        ([".", "--xmp", "--interval", "0"], "--interval: it is 0; expected seconds"),
        ([".", "--xmp", "--interval", "often"], "--interval: it is often; expected seconds"),
        ([".", "--output", "c.parquet", "--format", "parquet"], "--format"),
        ([".", "--output", "c.tsv", "--beam-size", "0"], "error: beam_size is 0"),
        ([".", "--output", "c.tsv", "--include", "xyzzy"], "error: The model doesn't know"),
    ],
)
def test_a_wrong_call_is_refused(
    args: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *args]) == 2
    said = capsys.readouterr().err
    assert reason in said and "Watching" not in said
    assert not list(tmp_path.iterdir())
