"""Resumable downloads and unpacking, with atomic files.

Uses only the standard library. Proxies come from the environment (`https_proxy`), as in `urllib`.
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
"""Called with the progress of a task: its name, bytes done, total bytes."""

PAUSES = (1.0, 5.0, 15.0, 60.0)
"""Seconds to wait before a retry after one, two, ... consecutive failures without progress."""

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
)  # HTTP status codes worth a retry


class _BrokenOffError(Exception):
    """The connection failed; a retry may help."""


class _RefusedError(Exception):
    """The server does not provide the file; a retry won't help."""


def download(
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    report: Report,
    pauses: Sequence[float] = PAUSES,
    advice: str = "Try another server.",
) -> None:
    """Download a file, or resume an earlier call.

    The data go to `NAME.part` in the target's folder, which is renamed once size and checksum are
    right. After a connection failure, the download resumes, as long as it makes progress. If the
    server's file has changed since an earlier call, the checksum is wrong, and the whole file is
    downloaded again.

    Args:
        url: Its URL: `http:`, `https:` or `file:`.
        target: Its path. An existing file is checked, and replaced if it is damaged.
        size: Its size in bytes.
        sha256: Its checksum, in hexadecimal digits.
        report: Called with the progress.
        pauses: Seconds to wait before each further attempt.
        advice: What to do if the server does not provide the file: the last sentence of the error
            message.

    Raises:
        DataError: The server has no such file or a different one; the connection fails repeatedly;
            the download is damaged (it is removed); or it cannot be written (the downloaded part is
            kept).
    """
    if target.exists():
        if not (damage := find_damage(target, size=size, sha256=sha256, report=report)):
            return
        logger.warning("%s: %s; downloading it again", target, damage)
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
                f"{in_words(_size(part))} of {in_words(size)} are kept, and the same call resumes"
                " from there"
            )
            raise DataError(f"{url}: {error}; {kept}. {advice}") from error
        damage = find_damage(part, size=size, sha256=sha256, report=report)
        if not damage:
            part.replace(target)
            return
        part.unlink()
        if not resumed:
            raise DataError(f"{url}: {damage}. The download was removed. {advice}")
        logger.warning("%s: %s; downloading it again from the start", part, damage)


def find_damage(path: Path, *, size: int, sha256: str, report: Report) -> str | None:
    """Check a file's size and checksum.

    Returns:
        The mismatch, to follow "FILE: " in a message; None if there is none.
    """
    if (found := path.stat().st_size) != size:
        return f"size mismatch: expected {size:,} bytes, got {found:,}"
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
        else f"checksum mismatch: expected SHA-256 {sha256}, got {digest.hexdigest()}"
    )


def unpack(archive: Path, folder: Path, members: Sequence[str], report: Report) -> dict[str, int]:
    """Unpack some members of a ZIP archive, or resume an earlier call.

    Each file is written under a temporary name and renamed once its CRC is right, so existing files
    with the right name and size are complete, and are kept.

    Args:
        archive: The ZIP archive.
        folder: The folder that names in the archive are relative to.
        members: Names of the members, or patterns with `*`.
        report: Called with the progress.

    Returns:
        The size of each file by its name in the archive.

    Raises:
        DataError: The archive is damaged, lacks a member, or has one outside of the folder (then
            nothing is unpacked); or a file cannot be written.
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
            f"{archive} is not a readable ZIP archive ({error}); delete it and try again."
        ) from error
    return {info.filename: info.file_size for info in chosen}


def log_progress() -> Report:
    """Create a `Report` that logs a line for every tenth of a task."""
    last: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if last.get(what) != tenths:
            last[what] = tenths
            logger.info("%s: %d %% of %s", what, 10 * tenths, in_words(total))

    return report


def in_words(size: int) -> str:
    """Format a number of bytes: 13.5 GB, 252.9 MB, 17 bytes."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:,} bytes"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors of writing a file, such as a full disk, into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. "
            "What is already there is kept: fix the problem, and the same call resumes."
        ) from error


def _fetch(url: str, part: Path, size: int, report: Report, pauses: Sequence[float]) -> None:
    """Download until `part` has all bytes; the contents are checked later."""
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
            logger.warning("%s: %s; retrying in %g s", url, error, pauses[failures - 1])
            time.sleep(pauses[failures - 1])


def _ask(url: str, start: int, size: int) -> Any:
    """Request the bytes from `start` on; the response's status tells if it has all bytes instead.

    The response states the size of the file, so a wrong file is detected before it is downloaded.
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
                    f"size mismatch: expected {size:,} bytes, server has fewer than {start:,}"
                ) from error
            raise _RefusedError(
                f"the server does not provide this file ({error.code} {error.reason})"
            ) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _RefusedError(f"invalid URL ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(
            reason, str | FileNotFoundError | ssl.SSLCertVerificationError
        ):  # str: an error of the URL itself
            raise _RefusedError(str(reason)) from error
        raise _BrokenOffError(_describe(reason)) from error
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            response.close()
            raise _BrokenOffError("the server sent a different part of the file than requested")
        length = found[2]
    else:
        length = response.headers.get("Content-Length", "*")
    if length.isdecimal() and int(length) != size:
        response.close()
        raise _RefusedError(
            f"size mismatch: expected {size:,} bytes, server reports {int(length):,}"
        )
    return response


def _append(response: Any, part: Path, start: int, size: int, report: Report) -> None:
    """Append a response to the first `start` bytes of `part`."""
    with writing(part), part.open("ab", buffering=_CHUNK) as file:
        if not start and file.tell():
            file.truncate(0)  # the server doesn't support ranges and sends all bytes again
        done = start
        while chunk := _read(response):
            file.write(chunk)
            done += len(chunk)
            report(f"Downloading {part.with_suffix('').name}", done, size)
            if done > size:  # the server doesn't state the file's size
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
    """Choose the requested files of an archive; fail if one is outside of the folder."""
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
