"""Files that are whole or not there: written beside their place, then renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new file beside `path`, which takes its place if all goes well.

    Until then the old file stays as it is, and after an error no half of a new one is left. A link
    stays a link: the file that it leads to is replaced. What is no regular file, such as a pipe, is
    written to itself.

    Args:
        path: The file to write or to replace.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        yield target
        return
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    # A short name of its own: that of the file may be as long as a name can be.
    temporary = target.with_name(f".captioner-{os.urandom(6).hex()}.tmp")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.filename == str(temporary):  # of which the user knows nothing
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
