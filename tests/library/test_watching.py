"""Photos that arrive: each is given once, and only when its file is complete."""

import os
import time
from pathlib import Path

import pytest

from captioner.library.watching import Arrivals


def grow(path: Path, content: bytes) -> None:
    """Write the next part of a file, at another time than the last one."""
    with path.open("ab") as file:
        file.write(content)
    os.utime(path, ns=(0, time.time_ns()))


def test_a_file_is_given_once_when_it_has_stopped_changing(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, lambda name: False)
    photo = tmp_path / "photo.jpg"
    assert arrivals.look() == []
    for _ in range(3):
        grow(photo, b"part")
        assert arrivals.look() == [], "it grows"
    assert arrivals.look() == [photo]
    assert arrivals.look() == []
    grow(photo, b"more")
    assert arrivals.look() == []
    assert arrivals.look() == [photo], "it is another file now"


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't record when permissions change")
def test_a_photo_is_given_again_when_its_permissions_change(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, lambda name: False)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"x")
    photo.chmod(0o200)
    assert [arrivals.look() for _ in range(3)] == [[], [photo], []]
    time.sleep(0.02)  # file systems count in clock ticks
    photo.chmod(0o600)
    assert [arrivals.look() for _ in range(3)] == [[], [photo], []]


def test_what_is_no_photo_or_empty_is_left(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, lambda name: False)
    for name in ("notes.txt", ".hidden.jpg", "photo.jpg.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "day" / "two").mkdir(parents=True)
    (tmp_path / "day" / "two" / "photo.png").write_bytes(b"x")
    assert arrivals.look() == []
    assert arrivals.look() == [tmp_path / "day" / "two" / "photo.png"]


def test_what_is_done_is_asked_once_and_not_given(tmp_path: Path) -> None:
    asked: list[str] = []

    def is_done(name: str) -> bool:
        asked.append(name)
        return name.endswith("old.jpg")

    for name in ("old.jpg", "new.jpg"):
        (tmp_path / name).write_bytes(b"x")
    arrivals = Arrivals(tmp_path, is_done)
    looks = [arrivals.look() for _ in range(4)]
    assert looks == [[], [tmp_path / "new.jpg"], [], []]
    assert sorted(asked) == sorted(str(tmp_path / name) for name in ("old.jpg", "new.jpg"))


def test_a_photo_is_given_again_if_asked_for(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    arrivals = Arrivals(tmp_path, lambda name: name.endswith("b.jpg") and done)
    done = False
    both = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    assert [arrivals.look() for _ in range(3)] == [[], both, []]
    done = True
    arrivals.again([*both, tmp_path / "never.jpg"])
    assert [arrivals.look() for _ in range(2)] == [[tmp_path / "a.jpg"], []]


def test_a_drive_that_comes_back_is_looked_through_again(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"x")
    arrivals = Arrivals(folder, lambda name: False)
    assert [len(arrivals.look()) for _ in range(2)] == [0, 1]
    folder.rename(elsewhere)
    folder.mkdir()
    assert arrivals.look() == []
    folder.rmdir()
    elsewhere.rename(folder)
    assert [len(arrivals.look()) for _ in range(2)] == [0, 1]
