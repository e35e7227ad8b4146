"""Download and unpack files. Both can be interrupted at any point and resumed.

Needs nothing but the standard library. Proxies are taken from the environment (`https_proxy`), as
`urllib` does.
"""

import hashlib
import http.client
import logging
import re
import shutil
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from zipfile import BadZipFile, ZipFile, ZipInfo

from captioner.errors import DataError

logger = logging.getLogger(__name__)

Report: TypeAlias = Callable[[str, int, int], None]
"""Is told how far a piece of work is: its name, bytes done, bytes in all."""

PAUSES = (1.0, 5.0, 15.0, 60.0)
"""Seconds to wait after one, two, ... consecutive failures; any progress resets the count."""

_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20
_ASK_AGAIN = (
    408,
    425,
    429,
    500,
    502,
    503,
    504,
)  # the server's answers that may be another a little later


class _BrokenOffError(Exception):
    """The connection failed; asking again may help."""


class _RefusedError(Exception):
    """The server does not give the file; asking again won't help."""


def download(
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    report: Report,
    pauses: Sequence[float] = PAUSES,
    advice: str = "Ask another server.",
) -> None:
    """Bring a file, or go on where an earlier call stopped.

    The file grows in `NAME.part` beside the target and gets its name when size and checksum are
    right. When the connection fails the server is asked for the rest, as long as that brings
    something new. If the server has changed its file since an earlier call, the checksum is wrong,
    and all of it is downloaded once more.

    Args:
        url: Where it is: `http:`, `https:` or `file:`.
        target: Where it goes. What is there already is checked, and replaced if it is damaged.
        size: How many bytes it has.
        sha256: Its checksum, in hexadecimal digits.
        report: Is told the progress.
        pauses: Seconds to wait before each further attempt.
        advice: What to do if the server does not give the file: a sentence that ends the error
            message.

    Raises:
        DataError: If the server has no such file, or another one; if the connection fails again and
            again; if what came is damaged (it is removed); or if it cannot be written (what was
            downloaded is kept).
    """
    if target.exists():
        if not (damage := find_damage(target, size=size, sha256=sha256, report=report)):
            return
        logger.warning("%s %s; it is downloaded again", target, damage)
        target.unlink()
    part = target.with_name(f"{target.name}.part")
    while True:
        resumed = part.exists()
        try:
            _fetch(url, part, size, report, pauses)
        except _RefusedError as error:
            raise DataError(f"{url}: {error}. {advice}") from error
        except _BrokenOffError as error:
            kept = (
                f"{in_words(_size(part))} of {in_words(size)} are kept, and the same call goes on"
                " from there"
            )
            raise DataError(f"{url}: {error}; {kept}. {advice}") from error
        damage = find_damage(part, size=size, sha256=sha256, report=report)
        if not damage:
            part.replace(target)
            return
        part.unlink()
        if not resumed:
            raise DataError(f"{url}: what was downloaded {damage}, and has been removed. {advice}")
        logger.warning("%s %s; it is downloaded again from the start", part, damage)


def find_damage(path: Path, *, size: int, sha256: str, report: Report) -> str | None:
    """Verify size and checksum; return what is wrong, to follow "FILE ...", or None."""
    if (found := path.stat().st_size) != size:
        return f"has {found:,} bytes instead of {size:,}"
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"Checking {path.name.removesuffix('.part')}", done, size)
    return (
        None
        if digest.hexdigest() == sha256
        else f"has the SHA-256 {digest.hexdigest()} instead of {sha256}"
    )


def unpack(archive: Path, folder: Path, members: Sequence[str], report: Report) -> dict[str, int]:
    """Unpack some members of a ZIP archive, or go on where an earlier call stopped.

    Each file grows under another name and is renamed when its CRC is right, so a file with the
    right name and size is whole, and stays.

    Args:
        archive: The ZIP archive.
        folder: What the names in the archive are relative to.
        members: Which of them: names or patterns with `*`.
        report: Is told the progress.

    Returns:
        The size of each file by its name in the archive.

    Raises:
        DataError: If the archive is damaged, lacks a member, or has one that would leave the folder
            (nothing is unpacked then); or if a file cannot be written.
    """
    try:
        with ZipFile(archive) as opened:
            chosen = _choose(opened, members)
            total = sum(info.file_size for info in chosen)
            done = 0
            for info in chosen:
                _unpack_one(opened, info, folder / info.filename)
                done += info.file_size
                report(f"Unpacking {archive.name}", done, total)
    except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{archive} is no ZIP archive that can be read ({error}); delete it and call again."
        ) from error
    return {info.filename: info.file_size for info in chosen}


def log_progress() -> Report:
    """Makes a `Report` that logs a line whenever another tenth of a piece of work is done."""
    last: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if last.get(what) != tenths:
            last[what] = tenths
            logger.info("%s: %d %% of %s", what, 10 * tenths, in_words(total))

    return report


def in_words(size: int) -> str:
    """A number of bytes for people: 13.5 GB, 252.9 MB, 17 bytes."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:,} bytes"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, and whatever else keeps a file from being written, into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. "
            "What is there already is kept: make room or mend it, and the same call goes on."
        ) from error


def _fetch(url: str, part: Path, size: int, report: Report, pauses: Sequence[float]) -> None:
    """Ask until `part` has all bytes; what they are is checked later."""
    most = _size(part)
    failures = 0
    while (start := _size(part)) < size:
        try:
            with closing(_ask(url, start, size)) as response:
                _append(
                    response,
                    part,
                    start if response.status == http.client.PARTIAL_CONTENT else 0,
                    size,
                    report,
                )
        except _BrokenOffError as error:
            reached = _size(part)
            failures = 1 if reached > most else failures + 1
            most = max(most, reached)
            if failures > len(pauses):
                raise _BrokenOffError(
                    f"the connection failed {failures} times in a row ({error})"
                ) from error
            logger.warning("%s: %s; asking again in %g s", url, error, pauses[failures - 1])
            time.sleep(pauses[failures - 1])


def _ask(url: str, start: int, size: int) -> Any:
    """Ask for the bytes from `start` on. The answer may be all of them: its status says so.

    Servers name the size of their file with the answer, so a wrong file is refused before it is
    downloaded.
    """
    headers = {"User-Agent": "captioner", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code in _ASK_AGAIN:
                raise _BrokenOffError(f"{error.code} {error.reason}") from error
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _RefusedError(
                    f"its file ends before {start:,} bytes, expected {size:,}"
                ) from error
            raise _RefusedError(
                f"the server does not give out this file ({error.code} {error.reason})"
            ) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _RefusedError(f"no address that can be asked ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(
            reason, str | FileNotFoundError | ssl.SSLCertVerificationError
        ):  # str: of the URL itself
            raise _RefusedError(str(reason)) from error
        raise _BrokenOffError(_describe(reason)) from error
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            response.close()
            raise _BrokenOffError("the server sent another part of the file than it was asked for")
        length = found[2]
    else:
        length = response.headers.get("Content-Length", "*")
    if length.isdecimal() and int(length) != size:
        response.close()
        raise _RefusedError(
            f"this file has {int(length):,} bytes, expected {size:,}: it is another one"
        )
    return response


def _append(response: Any, part: Path, start: int, size: int, report: Report) -> None:
    """Write what a server sends behind the first `start` bytes of `part`."""
    with writing(part), part.open("ab", buffering=_CHUNK) as file:
        if not start and file.tell():
            file.truncate(0)  # a server that cannot go on in the middle sends all of it again
        done = start
        while chunk := _read(response):
            file.write(chunk)
            done += len(chunk)
            report(f"Downloading {part.with_suffix('').name}", done, size)
            if done > size:  # of a server that doesn't say how long its file is
                return
    if done < size:
        raise _BrokenOffError(f"the connection broke off after {done:,} of {size:,} bytes")


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(_describe(error)) from error
    return chunk


def _describe(error: object) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _choose(archive: ZipFile, members: Sequence[str]) -> list[ZipInfo]:
    """The wanted files of an archive, none of which leaves the folder."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for member in members:
        if not any(fnmatchcase(info.filename, member) for info in infos):
            raise DataError(f"{archive.filename} has no {member}; expected an archive that does.")
    chosen = [
        info for info in infos if any(fnmatchcase(info.filename, member) for member in members)
    ]
    for info in chosen:
        steps = re.split(r"[/\\]", info.filename)
        if ".." in steps or not steps[0] or ":" in info.filename:  # ../x, /x, C:x
            raise DataError(
                f"{archive.filename} would write outside of its folder ({info.filename}); don't"
                " use it."
            )
    return chosen


def _unpack_one(archive: ZipFile, info: ZipInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == info.file_size:
        return
    part = target.with_name(f"{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
        part.replace(target)
