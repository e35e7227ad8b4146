import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from captioner.cli import main
from captioner.datasets.coco import COCO, Archive, prepare_coco
from captioner.errors import DataError
from tests.datasets.server import Server, serve

JSONS = {
    "annotations/captions_train.json": b'{"images": []}',
    "annotations/captions_val.json": b"{}",
}
TRAIN = {f"train/{number}.jpg": bytes([number]) * 5000 for number in range(5)}
VAL = {f"val/{number}.jpg": bytes([number]) * 4000 for number in range(3)}
FILES = JSONS | TRAIN | VAL


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def archives(server: Server) -> list[Archive]:
    """A small COCO on the server: what `COCO[2014]` is for the large one."""

    def put(path: str, kind: Any, files: dict[str, bytes], members: tuple[str, ...]) -> Archive:
        content = server.files[path] = zipped(files)
        checksum = hashlib.sha256(content).hexdigest()
        return Archive(
            server.url, path, kind, len(content), checksum, members, unpacked=4096 * len(files)
        )

    return [
        put(
            "annotations/json.zip",
            "annotations",
            JSONS | {"annotations/instances.json": b"[]"},
            tuple(JSONS),
        ),
        put("zips/train.zip", "images", TRAIN, ("train/*.jpg",)),
        put("zips/val.zip", "images", VAL, ("val/*.jpg",)),
    ]


def prepare(folder: Path, archives: Sequence[Archive], **options: Any) -> None:
    prepare_coco(folder, archives, pauses=(0, 0), **options)


def files_in(folder: Path) -> dict[str, bytes]:
    """All files but for those of `downloads/`."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {name: content for name, content in found.items() if not name.startswith("downloads/")}


def left_in(folder: Path) -> set[str]:
    """What of `downloads/` is neither a list of files nor the lock."""
    return {
        path.name
        for path in (folder / "downloads").iterdir()
        if path.suffix != ".json" and path.name != "lock"
    }


def paths(server: Server) -> list[str]:
    return [path for path, _ in server.asked]


def test_all_of_it_is_brought_once(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "coco"
    prepare(folder, archives)
    assert files_in(folder) == FILES
    assert not left_in(folder)
    assert paths(server) == [archive.path for archive in archives]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(folder, archives)
    assert len(server.asked) == 3
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_only_what_was_asked_for_is_brought(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    prepare(tmp_path, archives[:1])
    assert files_in(tmp_path) == JSONS
    prepare(tmp_path, archives)
    assert files_in(tmp_path) == FILES
    assert paths(server) == [archive.path for archive in archives]


@pytest.mark.parametrize("harm", ["missing", "truncated", "list of another archive", "no list"])
def test_what_lacks_a_file_is_brought_again(
    server: Server,
    archives: list[Archive],
    tmp_path: Path,
    harm: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(tmp_path, archives)
    server.asked.clear()
    record = tmp_path / "downloads/train.zip.json"
    if harm == "missing":
        (tmp_path / "train/3.jpg").unlink()
    elif harm == "truncated":
        (tmp_path / "train/3.jpg").write_bytes(b"half")
    elif harm == "no list":
        record.write_text("[")
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": "0" * 64}))
    prepare(tmp_path, archives)
    assert files_in(tmp_path) == FILES
    assert paths(server) == ["zips/train.zip"]
    assert "Some files of train.zip are missing in" in caplog.text


def test_a_mirror_has_the_same_paths(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    server.files = {f"some/place/{path}": content for path, content in server.files.items()}
    unreachable = [replace(archive, server="http://127.0.0.1:1") for archive in archives]
    prepare(tmp_path, unreachable, mirror=f"{server.url}/some/place/")
    assert files_in(tmp_path) == FILES


def test_what_a_server_lacks_is_named_and_the_rest_is_kept(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    content = server.files.pop("zips/val.zip")
    with pytest.raises(DataError) as error:
        prepare(tmp_path, archives)
    message = str(error.value)
    assert all(part in message for part in (f"{server.url}/zips/val.zip", "404", "--mirror URL"))
    assert str(tmp_path / "val.zip") in message  # where to put it oneself
    server.asked.clear()
    server.files["zips/val.zip"] = content
    prepare(tmp_path, archives)
    assert files_in(tmp_path) == FILES
    assert paths(server) == ["zips/val.zip"]


def test_a_broken_download_is_finished_by_the_next_call(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    server.wall = 9000
    with pytest.raises(DataError, match="the same call resumes"):
        prepare(tmp_path, archives)
    assert files_in(tmp_path) == JSONS
    server.asked.clear()
    server.wall = None
    prepare(tmp_path, archives)
    assert files_in(tmp_path) == FILES
    assert server.asked == [("zips/train.zip", "bytes=9000-"), ("zips/val.zip", None)]


def test_a_damaged_archive_is_not_unpacked(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    content = bytearray(server.files["zips/train.zip"])
    content[1000] ^= 1
    server.files["zips/train.zip"] = bytes(content)
    with pytest.raises(DataError, match=f"{archives[1].sha256}, got .* was removed"):
        prepare(tmp_path, archives)
    assert files_in(tmp_path) == JSONS
    assert not left_in(tmp_path)


def test_an_interrupted_unpacking_is_finished_without_a_server(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "Unpacking train.zip" and done == 10_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, archives[1:2], report=interrupt)
    assert files_in(tmp_path).keys() == {"train/0.jpg", "train/1.jpg"}
    prepare(tmp_path, archives[1:2])
    assert files_in(tmp_path) == TRAIN
    assert paths(server) == ["zips/train.zip"]
    assert not left_in(tmp_path)


def test_what_an_interrupted_run_did_not_delete_is_deleted(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    prepare(tmp_path, archives[2:])
    (tmp_path / "downloads/val.zip").write_bytes(server.files["zips/val.zip"])
    server.wall = 0
    with pytest.raises(DataError, match=r"json\.zip"):
        prepare(tmp_path, archives)
    assert left_in(tmp_path) <= {"json.zip.part"}
    (tmp_path / "downloads/val.zip.part").write_bytes(b"half")
    prepare(tmp_path, archives[2:])
    assert left_in(tmp_path) <= {"json.zip.part"}
    assert files_in(tmp_path) == VAL


def test_an_archive_of_ones_own_is_used_and_stays(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    own = tmp_path / "train.zip"
    own.write_bytes(b"another")
    with pytest.raises(
        DataError, match=r"train\.zip: size mismatch: expected .*, got 7\. Delete it"
    ):
        prepare(tmp_path, archives[1:2])
    own.write_bytes(server.files["zips/train.zip"])
    prepare(tmp_path, archives[1:2])
    assert files_in(tmp_path) == TRAIN | {"train.zip": server.files["zips/train.zip"]}
    assert not server.asked


def test_an_archive_that_would_leave_the_folder_is_refused(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    content = server.files["zips/train.zip"] = zipped(TRAIN | {"train/../../evil.jpg": b"evil"})
    evil = replace(archives[1], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(DataError, match=r"outside of its folder \(train/\.\./\.\./evil\.jpg\)"):
        prepare(tmp_path / "coco", [evil])
    assert not files_in(tmp_path / "coco")
    assert not list(tmp_path.glob("*.jpg"))


def most_at_once(archives: Sequence[Archive]) -> int:
    """The peak of what lies on the disk, event by event."""
    lies, peaks = 0, []
    for archive in archives:
        for change in (
            archive.size,
            archive.unpacked,
            -archive.size,
        ):  # downloaded, unpacked, deleted
            lies += change
            peaks.append(lies)
    return max(peaks)


def test_a_disk_without_room_is_refused_before_anything_is_asked(
    server: Server, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    large = [
        replace(archive, size=archive.size * 10**9, unpacked=(i + 1) * 10**11)
        for i, archive in enumerate(archives)
    ]
    needed = most_at_once(large)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed, 0, needed - 3 * 10**9))
    with pytest.raises(DataError) as error:
        prepare(tmp_path, large)
    assert f"needs {needed / 1e9:,.1f} GB" in str(error.value) and "free 3.0 GB more" in str(
        error.value
    )
    assert not server.asked
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed, 0, needed))
    with pytest.raises(DataError, match="server reports"):  # goes on until the server tells a size
        prepare(tmp_path, large)


def test_what_is_there_needs_no_room(
    server: Server, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(archives[1], unpacked=5 * 8192)
    usage = namedtuple("usage", "total used free")
    server.wall = 20_000
    with pytest.raises(DataError):
        prepare(tmp_path, [train])
    server.wall = None
    on_disk = -(-20_000 // 4096) * 4096
    free = train.size - on_disk + train.unpacked
    large = replace(archives[2], size=10**6)
    for room, planned in (
        (free, [train]),
        (train.unpacked - on_disk + large.size + large.unpacked, [train, large]),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: usage(0, 0, room - 1))
        with pytest.raises(DataError, match="free 1 bytes more"):
            prepare(tmp_path, planned)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
    prepare(tmp_path, [train])
    (tmp_path / "train/0.jpg").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, train.size + 8192))
    prepare(tmp_path, [train])
    assert files_in(tmp_path) == TRAIN


@pytest.mark.skipif(os.name == "nt", reason="locks of Unix")
def test_a_second_run_keeps_out(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    refused = []

    def begin_another(*_: object) -> None:
        if not refused:
            with pytest.raises(DataError, match="Another process is filling") as error:
                prepare(tmp_path, archives)
            refused.append(error)

    prepare(tmp_path, archives, report=begin_another)
    assert refused
    assert files_in(tmp_path) == FILES


def test_a_folder_that_cannot_be_made_is_named(archives: list[Archive], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/coco cannot be written: Not a directory"):
        prepare(tmp_path / "file" / "coco", archives)


@pytest.mark.parametrize("year", COCO)
def test_the_real_table_is_consistent(year: int) -> None:
    archives = COCO[year]
    assert len({archive.name for archive in archives}) == len(archives)
    members = [member for archive in archives for member in archive.members]
    wanted = [f"{split}{year}" for split in ("train", "val")]
    karpathy = ["dataset_coco.json"] if year == 2014 else []
    expected = (
        [f"annotations/captions_{name}.json" for name in wanted]
        + karpathy
        + [f"{name}/*.jpg" for name in wanted]
    )
    assert members == expected
    for archive in archives:
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.url() == f"{archive.server}/{archive.path}" and archive.url().startswith(
            "https://"
        )
        assert archive.kind == ("images" if archive.path.startswith("zips/") else "annotations")
        if (
            archive.kind == "images"
        ):  # photos don't shrink in a ZIP archive; on a disk each ends in half an empty block
            assert 1 < archive.unpacked / archive.size < 1.02
    assert most_at_once(archives) == min(
        most_at_once([*archives[:-2], *images]) for images in (archives[-2:], archives[:-3:-1])
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], FILES),
        (["--only", "annotations"], JSONS),
        (["--only", "images"], TRAIN | VAL),
        (["--year", "2017"], VAL),
    ],
)
def test_the_command_brings_what_it_is_asked_for(
    archives: list[Archive],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: Any,
) -> None:
    monkeypatch.setitem(COCO, 2014, tuple(archives))
    monkeypatch.setitem(COCO, 2017, tuple(archives[2:]))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare-coco", *options]) == 0
    assert files_in(tmp_path / "data/coco") == expected


def test_progress_is_logged_by_default(
    server: Server, archives: list[Archive], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    prepare(tmp_path, archives[2:])
    for line in (
        f"{server.url}/zips/val.zip",
        "Downloading val.zip: 100 %",
        "Unpacking val.zip: 100 %",
        "All files are now in",
    ):
        assert line in caplog.text
