"""Atomic file writes."""

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
