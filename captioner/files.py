"""Write files atomically: to a temporary file in the same folder, which is then renamed.

The content is on the disk before the name, so that a power failure leaves no empty file either.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.errors import ConfigError


def real_path(path: str | os.PathLike[str]) -> Path:
    """Follow links; unlike `Path.resolve`, leave circular ones to whoever opens the file."""
    return Path(os.path.realpath(path))


def name_as_text(name: str) -> str:
    """Return a file's name as text: bytes that are not UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_folder_of(path: str | os.PathLike[str]) -> None:
    """Check that the folder of a file to write exists, before the work whose result it will hold.

    Raises:
        ConfigError: It doesn't exist.
    """
    folder = real_path(path).parent
    if not folder.is_dir():
        raise ConfigError(
            f"{os.fspath(path)}: the folder {folder} does not exist; create it, or choose another"
            " file."
        )


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` on success.

    On an error, the old file stays unchanged and the temporary file is removed. A link stays a
    link: its target is replaced. If `path` is not a regular file, such as a pipe, it is yielded
    itself.

    Args:
        path: The file to write or to replace.

    Raises:
        OSError: It cannot be written.
    """
    target = real_path(path)
    if target.exists() and not target.is_file():
        yield target
        return
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    # A short name of its own: the file's may already have the maximum length.
    temporary = target.with_name(f".captioner-{os.urandom(6).hex()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        # Name the file that the user knows; a full disk fails a write, which knows no name.
        if error.filename in (None, str(temporary)) and error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # missing; a read-only file system says so even then
            temporary.unlink()


def _sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
                raise
