"""Atomic file writes."""

import errno
import os
from pathlib import Path

import pytest

from captioner.files import replacing


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    path.chmod(0o600)
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "old")]
    with replacing(path) as partial:
        partial.write_text("new")
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "new")]
    assert path.stat().st_mode & 0o777 == 0o600


def test_links_long_names_and_devices(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to("disk/real.json")
    for path in (tmp_path / "link.json", tmp_path / ("n" * 250), Path("/dev/null")):
        with replacing(path) as partial:
            partial.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (
        (tmp_path / "disk" / "real.json").read_text()
        == (tmp_path / ("n" * 250)).read_text()
        == "new"
    )
    assert Path("/dev/null").is_char_device()


def test_an_error_names_the_file_and_not_the_one_beside_it(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError) as caught,
        replacing(tmp_path / "nowhere" / "a.txt") as partial,
    ):
        partial.write_text("")
    assert caught.value.filename == str(tmp_path / "nowhere" / "a.txt")


def test_a_full_disk_is_an_error_with_the_users_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "a.txt"):
        Path("/dev/full").write_text("x")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_the_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, replace = os.fsync, os.replace
    calls: list[tuple[str, int]] = []

    def synced(file: int) -> None:
        calls.append(("sync", os.fstat(file).st_size))
        sync(file)

    def replaced(source: Path, target: Path) -> None:
        calls.append(("replace", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert calls == [("sync", 5), ("replace", 5)]


def test_a_read_only_file_system_is_reported_with_the_users_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:  # as Linux does, even if there is no such file
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError) as caught, replacing(tmp_path / "a.txt") as partial:
        refuse(partial)
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_circular_link_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "loop" / "a.txt") as partial:
        partial.write_text("")
    assert caught.value.errno == errno.ELOOP
