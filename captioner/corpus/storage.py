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
# Where an upload appears whole or not at all. Elsewhere it is renamed into its place.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}
_WEB = ("http://", "https://")
_SILENCE = 30.0  # seconds in which a web server must send something
_ATTEMPTS = 3
_THREADS = 16
# What trying again cannot change.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ConfigError)
_NOT_FINAL = {408, 425, 429}  # of the HTTP statuses that blame the client


def is_local(url: str) -> bool:
    """Whether a path or URL is of this machine's own file system."""
    return "://" not in url or url.startswith(_FILE)


def is_web(url: str) -> bool:
    """Whether a URL is of a web server, which has files but no folders."""
    return url.startswith(_WEB)


def absolute(url: str, folder: str | None = None) -> str:
    """Make a local path absolute and leave a URL as it is.

    Args:
        url: The path or URL.
        folder: Where a relative path starts, a path or a URL; the current directory if None.
    """
    if url.startswith(_FILE):
        url = url.removeprefix(_FILE)
    elif "://" in url:
        return url
    if folder is None or os.path.isabs(url):
        return os.path.abspath(url)
    return os.path.abspath(os.path.join(folder, url)) if is_local(folder) else f"{folder}/{url}"


def join(folder: str, name: str) -> str:
    """Give the place of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def locate(url: str) -> tuple[Any, str]:
    """Find the file system of a path or URL.

    Returns:
        The file system, and the path in it.

    Raises:
        ConfigError: fsspec knows no such file system, or lacks the package for it.
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
            f"{url}: {protocol}:// needs a package that is not installed ({error})."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{url}: there is no file system {protocol}://; expected a path, or a URL such as"
            " s3://, gs://, hdfs:// or https://."
        ) from error
    return found


def _web() -> Any:
    """Return the file system of web servers; by default it waits five minutes for a silent one."""
    from aiohttp import ClientTimeout  # here, as it takes long to import

    timeout = ClientTimeout(total=300, sock_connect=_SILENCE, sock_read=_SILENCE)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout})


def open_file(url: str) -> Any:
    """Open a file to read it at any place.

    Some web servers send a file as a whole or not at all. Such a file is downloaded first.
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
    """Whether a web server sends the end of a file alone."""
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except (ValueError, TypeError):  # what fsspec raises where it cannot seek, or knows no size
        return False
    return True


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Say in a line what goes wrong while a place is read.

    Raises:
        DataError: Anything went wrong, whatever the file system calls it.
        ConfigError: There is no such file system.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist.") from error
    except Exception as error:  # the clients of file systems have no common base but this
        raise DataError(
            f"{url} cannot be read ({said(error)}). Check the address, the network and the"
            " credentials."
        ) from error


def said(error: BaseException, length: int = 200) -> str:
    """Return what an error says, as one line."""
    text = " ".join(str(error).split())
    if not text:
        # asyncio's is another class than the built-in one in Python 3.10
        timed_out = isinstance(error, asyncio.TimeoutError | TimeoutError)
        text = "timed out" if timed_out else type(error).__name__
    return text if len(text) <= length else f"{text[:length]}..."


def read_bytes(url: str) -> bytes:
    """Read a file, and try again where the network may be to blame."""

    def read() -> bytes:
        system, path = locate(url)
        content: bytes = system.cat_file(path)
        return content

    return persistently(read)


def persistently(action: Callable[[], Found]) -> Found:
    """Do something that a network may spoil, up to three times."""
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
    """Whether a web server says that it will never give the file."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _NOT_FINAL


def ahead(action: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """Map over items in threads, a few items ahead of who reads the results, in their order."""
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
    """Give the path of a new local file, which appears at `url` whole if all goes well.

    Raises:
        OSError: It cannot be written.
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
