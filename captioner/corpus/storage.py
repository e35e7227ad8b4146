"""Paths and URLs of any file system that fsspec knows: read, list, write whole."""

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from captioner.errors import ConfigError, DataError
from captioner.files import replacing

Item = TypeVar("Item")
Found = TypeVar("Found")

_FILE = "file://"
# File systems with atomic uploads. Elsewhere the upload is renamed into place.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}
_WEB = ("http://", "https://")
_SILENCE = 30.0  # read timeout of web servers in seconds
_ATTEMPTS = 3
_THREADS = 16
# Errors that a retry cannot change.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ConfigError)
_NOT_FINAL = {408, 425, 429}  # HTTP statuses of client errors that may be temporary


def is_local(url: str) -> bool:
    """Return whether a path or URL is on the local file system."""
    return "://" not in url or url.startswith(_FILE)


def is_web(url: str) -> bool:
    """Return whether a URL is on a web server, which has files but no folders."""
    return url.startswith(_WEB)


def absolute(url: str, folder: str | None = None) -> str:
    """Make a local path absolute and leave a URL as it is.

    Args:
        url: The path or URL.
        folder: The base of a relative path, a path or a URL; None for the current directory.
    """
    if url.startswith(_FILE):
        url = url.removeprefix(_FILE)
    elif "://" in url:
        return url
    if folder is None or os.path.isabs(url):
        return _without_dots(url)
    return _without_dots(os.path.join(folder, url)) if is_local(folder) else f"{folder}/{url}"


def _without_dots(path: str) -> str:
    """Return an absolute path without `..`, which is kept only if it follows a link."""
    plain = os.path.abspath(path)
    if ".." not in path or os.path.realpath(path) == os.path.realpath(plain):
        return plain
    return os.path.join(os.getcwd(), path)


def join(folder: str, name: str) -> str:
    """Return the path or URL of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def locate(url: str) -> tuple[Any, str]:
    """Find the file system of a path or URL.

    Returns:
        The file system, and the path in it.

    Raises:
        ConfigError: fsspec doesn't support the file system, or the package for it is missing.
    """
    if is_local(url):
        return LocalFileSystem(), absolute(url)
    protocol = url.partition("://")[0]
    try:
        if is_web(url):  # "::" in it is a part of the address, not one of fsspec's chains
            return _web(), url
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"{url}: {protocol}:// requires a package that is not installed ({error})."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{url}: unknown file system {protocol}://; expected a path, or a URL such as"
            " s3://, gs://, hdfs:// or https://."
        ) from error
    return found


def _web() -> Any:
    """Return the file system of web servers, with a shorter timeout than the usual five minutes."""
    from aiohttp import ClientTimeout  # here, as importing it is slow

    timeout = ClientTimeout(total=300, sock_connect=_SILENCE, sock_read=_SILENCE)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout})


def open_file(url: str) -> Any:
    """Open a file for random access.

    Some web servers don't support range requests. Their files are downloaded first.
    """
    system, path = locate(url)
    file = system.open(path, "rb")
    if not is_web(url) or _gives_parts(file):
        return file
    file.close()
    whole = tempfile.TemporaryFile(prefix="captioner-")  # noqa: SIM115  # the caller closes it
    try:
        system.get_file(path, whole)
        whole.seek(0)
    except BaseException:
        whole.close()
        raise
    return whole


def _gives_parts(file: Any) -> bool:
    """Return whether a web server supports range requests."""
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except (ValueError, TypeError):  # raised by fsspec if it cannot seek or doesn't know the size
        return False
    return True


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Convert errors while reading a path or URL to one-line messages.

    Raises:
        DataError: Reading failed, whatever the file system raised.
        ConfigError: The file system is unknown.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist.") from error
    except Exception as error:  # file system clients share no other base class
        raise DataError(
            f"{url} cannot be read ({said(error)}). Check the address, the network and the"
            " credentials."
        ) from error


def said(error: BaseException, length: int = 200) -> str:
    """Return the message of an error on one line."""
    text = " ".join(str(error).split())
    if not text:
        # asyncio's is another class than the built-in one in Python 3.10
        timed_out = isinstance(error, asyncio.TimeoutError | TimeoutError)
        text = "timed out" if timed_out else type(error).__name__
    return text if len(text) <= length else f"{text[:length]}..."


def read_bytes(url: str) -> bytes:
    """Read a file; retry if the network may be the cause of an error."""

    def read() -> bytes:
        system, path = locate(url)
        content: bytes = system.cat_file(path)
        return content

    return persistently(read)


def persistently(action: Callable[[], Found]) -> Found:
    """Run an action that depends on the network, with up to three attempts."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return action()
        except _FINAL:
            raise
        except Exception as error:
            if attempt == _ATTEMPTS or _is_refusal(error):
                raise
            time.sleep(attempt)
    raise AssertionError


def _is_refusal(error: Exception) -> bool:
    """Return whether a web server's error is final, so that a retry is pointless."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _NOT_FINAL


def ahead(action: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """Map over items in threads, in order, a few items ahead of the consumer."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="captioner-corpus") as threads:
        waiting: deque[Future[Found]] = deque()
        try:
            for item in items:
                waiting.append(threads.submit(action, item))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def writing(url: str) -> Iterator[Path]:
    """Yield the path of a new local file, which is written to `url` atomically on success.

    Raises:
        OSError: The file cannot be written.
    """
    system, path = locate(url)
    if isinstance(system, LocalFileSystem):
        with replacing(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="captioner-") as folder:
        local = Path(folder, "file")
        yield local
        if _OBJECT_STORES.isdisjoint(_protocols(system)):
            beside = f"{path}.{os.urandom(6).hex()}.tmp"
            system.put_file(str(local), beside)
            system.mv(beside, path)
        else:
            system.put_file(str(local), path)


def _protocols(system: Any) -> set[str]:
    protocol: str | tuple[str, ...] = system.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)
