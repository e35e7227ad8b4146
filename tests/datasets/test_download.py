import hashlib
import os
import random
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from captioner.datasets.download import download, log_progress, unpack
from captioner.errors import DataError
from tests.datasets.server import Server, serve

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(1).randbytes(10_000)
OTHER = CONTENT[:5000] + b"!" + CONTENT[5001:]
NAME = "zips/images.zip"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        server.files[NAME] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "images.zip"


def part_of(target: Path) -> Path:
    return target.with_name("images.zip.part")


def bring(url: str, target: Path, **more: Any) -> list[tuple[str, int, int]]:
    """Download the file; what was reported."""
    reports: list[tuple[str, int, int]] = []
    checksum = hashlib.sha256(CONTENT).hexdigest()
    report = lambda *told: reports.append(told)  # noqa: E731
    download(url, target, size=len(CONTENT), sha256=checksum, report=report, pauses=(0, 0), **more)
    return reports


def ranges(server: Server) -> list[str | None]:
    return [wanted for _, wanted in server.asked]


def test_a_file_is_downloaded_once(server: Server, target: Path) -> None:
    reports = bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    for work in ("Downloading images.zip", "Checking images.zip"):
        done = [done for what, done, total in reports if what == work and total == len(CONTENT)]
        assert done == sorted(done) and done[-1] == len(CONTENT)
    bring(f"{server.url}/{NAME}", target)
    assert server.asked == [(NAME, None)]


@pytest.mark.parametrize(
    ("breaks", "asked"),
    [
        ([4000], [None, "bytes=4000-"]),
        (
            [1000] * 9,
            [None, *(f"bytes={start}000-" for start in range(1, 10))],
        ),  # more often than there are pauses
        ([4000, 0], [None, "bytes=4000-", "bytes=4000-"]),
    ],
)
def test_a_broken_connection_goes_on_where_it_broke(
    server: Server, target: Path, breaks: list[int], asked: list[str | None]
) -> None:
    server.breaks = breaks
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == asked


def test_a_connection_that_always_breaks_is_given_up_and_goes_on_at_the_next_call(
    server: Server, target: Path
) -> None:
    server.wall = 4000
    with pytest.raises(
        DataError, match=r"failed 3 times in a row .*4,000 bytes of 10,000 bytes are kept"
    ) as error:
        bring(f"{server.url}/{NAME}", target)
    assert f"{server.url}/{NAME}" in str(error.value)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:4000]
    server.wall = None
    server.asked.clear()
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == ["bytes=4000-"]


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, target: Path) -> None:
    server.ranges, server.breaks = False, [4000]
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    server.wall, target = 4000, target.with_name("images2.zip")
    with pytest.raises(
        DataError, match="3 times in a row"
    ):  # what comes again and again is nothing new
        bring(f"{server.url}/{NAME}", target)
    server.wall, server.breaks, target = None, [4000, 1000, 3000], target.with_name("images3.zip")
    with pytest.raises(DataError, match="3 times in a row"):
        bring(f"{server.url}/{NAME}", target)


def test_another_part_than_was_asked_for_is_not_taken(server: Server, target: Path) -> None:
    part_of(target).write_bytes(CONTENT[:4000])
    server.shift = -10
    with pytest.raises(DataError, match="different part of the file"):
        bring(f"{server.url}/{NAME}", target)
    assert part_of(target).read_bytes() == CONTENT[:4000]


def test_a_server_without_lengths_is_heard_to_the_end(server: Server, target: Path) -> None:
    server.length = False
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    server.files[NAME] += b"more"
    with pytest.raises(
        DataError, match=r"expected 10,000 bytes, got 10,004\. The download was removed"
    ):
        bring(f"{server.url}/{NAME}", target.with_name("images2.zip"))


@pytest.mark.parametrize("statuses", [[503], [0], [429, 0], [500, 502]])
def test_a_server_that_is_busy_is_asked_again(
    server: Server, target: Path, statuses: list[int]
) -> None:
    server.statuses = statuses.copy()
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1 + len(statuses)


def test_a_damaged_file_is_removed(server: Server, target: Path) -> None:
    server.files[NAME] = OTHER
    with pytest.raises(DataError, match="was removed") as error:
        bring(f"{server.url}/{NAME}", target)
    message = str(error.value)
    assert all(hashlib.sha256(content).hexdigest() in message for content in (CONTENT, OTHER))
    assert f"{server.url}/{NAME}" in message
    assert not list(target.parent.iterdir())
    assert len(server.asked) == 1  # a server with another file has it the second time, too


@pytest.mark.parametrize(
    ("left", "asked"),
    [
        (OTHER[:6000], ["bytes=6000-", None]),
        (OTHER, [None]),
        (CONTENT + b"more", [None]),
        (CONTENT, []),
        (b"", [None]),
    ],
    ids=["of another file", "another file", "too long", "whole", "empty"],
)
def test_what_an_earlier_call_left_is_used_if_it_is_right(
    server: Server, target: Path, left: bytes, asked: list[str | None]
) -> None:
    part_of(target).write_bytes(left)
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == asked


def test_a_damaged_target_is_replaced(server: Server, target: Path) -> None:
    target.write_bytes(OTHER)
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("length", [4000, 9999, 10_001])
@pytest.mark.parametrize("left", [b"", CONTENT[:5000]])
def test_a_file_of_another_size_is_refused_before_it_is_downloaded(
    server: Server, target: Path, length: int, left: bytes
) -> None:
    if left:
        part_of(target).write_bytes(left)
    server.files[NAME] = (CONTENT * 2)[:length]
    with pytest.raises(DataError, match="expected 10,000"):
        bring(f"{server.url}/{NAME}", target)
    assert part_of(target).exists() == bool(left)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [404, 403, 401])
def test_a_file_that_is_not_given_out_is_named_with_what_to_do(
    server: Server, target: Path, status: int
) -> None:
    server.statuses = [status]
    with pytest.raises(DataError) as error:
        bring(f"{server.url}/{NAME}", target, advice="Try X.")
    message = str(error.value)
    assert (
        message.startswith(f"{server.url}/{NAME}: ")
        and message.endswith(" Try X.")
        and str(status) in message
    )
    assert len(server.asked) == 1
    assert not list(target.parent.iterdir())


def test_a_server_that_cannot_be_reached_is_named(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        DataError, match=rf"127\.0\.0\.1:{port}.* failed 3 times in a row \(Connection refused\)"
    ):
        bring(f"http://127.0.0.1:{port}/{NAME}", target)
    for url in ("ht tp://x", "nonsense", "http://a b/c"):
        with pytest.raises(DataError, match=r"invalid URL|unknown url type"):
            bring(url, target)


def test_a_file_of_this_machine_is_copied(tmp_path: Path, target: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    part_of(target).write_bytes(CONTENT[:4000])
    bring(original.as_uri(), target)
    assert target.read_bytes() == CONTENT
    with pytest.raises(DataError, match="No such file") as error:
        bring((tmp_path / "missing").as_uri(), tmp_path / "new")
    assert "in a row" not in str(error.value)


def run_with_small_files(code: str, *args: object) -> "subprocess.CompletedProcess[str]":
    """Run code where no file can grow beyond 5000 bytes, which ends like a full disk."""
    prelude = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        from pathlib import Path
        from captioner.datasets.download import download, unpack
        from captioner.errors import DataError
        CONTENT_SHA256 = {hashlib.sha256(CONTENT).hexdigest()!r}
        def report(*_): pass
    """
    lines = (
        f"try:\n{textwrap.indent(textwrap.dedent(code), '    ')}\nexcept DataError as error:\n   "
        " print(error)"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", f"{textwrap.dedent(prelude)}\n{lines}", *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="limits of Unix")
def test_a_full_disk_is_named_and_the_download_goes_on_later(server: Server, target: Path) -> None:
    code = """
        url, target = sys.argv[1:]
        download(url, Path(target), size=10_000, sha256=CONTENT_SHA256, report=report)
    """
    ended = run_with_small_files(code, f"{server.url}/{NAME}", target)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{part_of(target)} cannot be written: File too large.")
    assert part_of(target).read_bytes() == CONTENT[:5000]
    bring(f"{server.url}/{NAME}", target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=5000-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_no_space_left_is_no_broken_connection(server: Server, target: Path) -> None:
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        bring(f"{server.url}/{NAME}", target)
    assert len(server.asked) == 1


FILES = {f"images/{number}.jpg": random.Random(number).randbytes(3000) for number in range(4)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "images.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as opened:
        for name, content in (
            {"images/": b""} | FILES | {"images/notes.txt": b"no", "other/1.jpg": b"no"}
        ).items():
            opened.writestr(name, content)
    return path


def extract(archive: Path, folder: Path, *members: str) -> dict[str, int]:
    return unpack(archive, folder, members or ("images/*.jpg",), report=lambda *_: None)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_wanted_members_are_unpacked(archive: Path, tmp_path: Path) -> None:
    reports = []
    sizes = unpack(
        archive, tmp_path / "all", ["images/*.jpg"], report=lambda *told: reports.append(told)
    )
    assert files_in(tmp_path / "all") == FILES
    assert sizes == {name: 3000 for name in FILES}
    assert reports == [
        ("Unpacking images.zip", done, 12_000) for done in (3000, 6000, 9000, 12_000)
    ]
    extract(archive, tmp_path / "one", "images/notes.txt")
    assert files_in(tmp_path / "one") == {"images/notes.txt": b"no"}


def test_files_that_are_whole_stay_and_others_are_written_anew(
    archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    extract(archive, folder)
    (folder / "images/1.jpg").write_bytes(b"half")
    (folder / "images/2.jpg").unlink()
    (folder / "images/2.jpg.part").write_bytes(b"half")
    os.utime(folder / "images/0.jpg", (0, 0))
    extract(archive, folder)
    assert files_in(folder) == FILES
    assert (folder / "images/0.jpg").stat().st_mtime == 0


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "images/../../evil.jpg", "/evil.jpg", "C:/evil.jpg", "..\\evil.jpg"]
)
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("good.jpg", b"good")
        opened.writestr(name, b"evil")
    with pytest.raises(DataError, match=r"evil\.jpg"):
        extract(tmp_path / "evil.zip", tmp_path / "all", "*")
    assert files_in(tmp_path).keys() == {"evil.zip"}


def test_a_damaged_archive_leaves_no_damaged_file(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    at = content.index(
        FILES["images/1.jpg"][1000:1020]
    )  # random bytes cannot be deflated: they stand as they are
    content[at] ^= 1
    archive.write_bytes(content)
    with pytest.raises(
        DataError, match=r"images\.zip is not a readable ZIP archive \(Bad CRC-32.*delete it"
    ):
        extract(archive, tmp_path / "all")
    assert files_in(tmp_path / "all").keys() == {"images/0.jpg", "images/1.jpg.part"}
    archive.write_bytes(content[:5000])
    with pytest.raises(DataError, match="not a zip file"):
        extract(archive, tmp_path / "all")


def test_an_archive_that_lacks_a_member_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\.zip has no pictures/\*\.jpg"):
        extract(archive, tmp_path / "all", "images/*.jpg", "pictures/*.jpg")
    assert not (tmp_path / "all").exists()


@pytest.mark.skipif(os.name == "nt", reason="limits of Unix")
def test_a_full_disk_while_unpacking_leaves_what_the_next_call_finishes(tmp_path: Path) -> None:
    files = {"images/small.jpg": b"small", "images/large.jpg": CONTENT}
    with ZipFile(tmp_path / "images.zip", "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    code = "unpack(Path(sys.argv[1]), Path(sys.argv[2]), ['images/*'], report)"
    ended = run_with_small_files(code, tmp_path / "images.zip", tmp_path / "all")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(
        f"{tmp_path / 'all/images/large.jpg'} cannot be written: File too large."
    )
    assert not (tmp_path / "all/images/large.jpg").exists()
    extract(tmp_path / "images.zip", tmp_path / "all", "images/*")
    assert files_in(tmp_path / "all") == files


def test_progress_is_logged_in_tenths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    report = log_progress()
    for done in range(0, 3_000_000_000, 10_000_000):
        report("Downloading x", done, 3_000_000_000)
    assert caplog.messages == [f"Downloading x: {share} % of 3.0 GB" for share in range(0, 100, 10)]
