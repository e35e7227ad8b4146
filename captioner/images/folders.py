"""Find the user's photos in a folder."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path

from captioner.errors import ImageError
from captioner.images.formats import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

# Folders, in lower case, in which systems and photo managers keep thumbnails, copies and deleted
# files.
_FOREIGN = re.compile(
    "|".join(
        (
            # Network storage
            r"@(eadir|recycle|recently-snapshot|sharebin|sharesnap|tmp|__thumb|transcode|quarantine)",
            r"#(recycle|snapshot)",
            r"\$recycle\.bin|recycler|recycled|system volume information|found\.\d{3}",  # Windows
            r"lost\+found|lost\.dir",
            r"__macosx|network trash folder|temporary items|ipod photo cache",  # macOS
            r"\.(trash.*|trashes|thumbnails|thumbs|@__thumb|appledouble|picasaoriginals|dtrash|snapshots?)",
            r".*\.lrdata|captureone",  # previews of Lightroom and Capture One
        )
    )
)
_APPLE_LIBRARY, _APPLE_PHOTOS = (
    ".photoslibrary",
    ("originals", "masters"),
)  # folders next to originals: previews and faces


def find_images(
    path: str | os.PathLike[str], *, suffixes: Set[str] = IMAGE_SUFFIXES
) -> Iterator[Path]:
    """Find the images below a folder, by their suffix.

    Hidden files and folders are skipped, links to folders are not followed, and unreadable folders
    are skipped with a warning. Files of systems and photo managers (`@eaDir`, `#recycle`,
    `__MACOSX`, `._photo.jpg`) are skipped too, with a warning at the end. `path` itself may be such
    a folder.

    Args:
        path: The folder.
        suffixes: The file suffixes to find, in lower case.

    Returns:
        A lazy iterator over paths that start with `path`, sorted by their parts.

    Raises:
        ImageError: There is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(str(folder), "is not a folder" if folder.exists() else "does not exist")
    return _find(folder, suffixes)


def _find(folder: Path, suffixes: Set[str]) -> Iterator[Path]:
    left_out: Counter[str] = Counter()
    yield from _walk(folder, suffixes, left_out)
    if left_out:
        names = ", ".join(
            f"{name} ({count})" if count > 1 else name for name, count in left_out.most_common(5)
        )
        more = ", ..." if len(left_out) > 5 else ""
        logger.warning(
            "%s: skipped files of systems and photo managers: %s%s. Give such a folder itself to"
            " include it.",
            folder,
            names,
            more,
        )


def _walk(folder: Path, suffixes: Set[str], left_out: Counter[str]) -> Iterator[Path]:
    """Walk the tree without recursion, whose depth is limited in Python."""
    open_folders = [(folder, iter(_entries(folder)))]
    while open_folders:
        folder, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
        elif _is_folder(entry):
            if _is_foreign(folder, entry.name):
                left_out[entry.name] += 1
            elif not entry.is_symlink() and not entry.name.startswith("."):
                inner = folder / entry.name
                open_folders.append((inner, iter(_entries(inner))))
        elif Path(entry.name).suffix.lower() in suffixes and _is_file_or_link(entry):
            if entry.name.startswith("._"):  # macOS's metadata on file systems that cannot store it
                left_out["._*"] += 1
            elif not entry.name.startswith("."):
                yield folder / entry.name  # broken links too; opening them reports an error


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as iterator:
            return sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        logger.warning("%s: skipped, cannot be read (%s)", _short(folder), error.strerror)
        return []


def _short(folder: Path, length: int = 300) -> str:
    """Return the path, with its middle omitted if it is very long."""
    path = str(folder)
    return path if len(path) <= length else f"{path[: length // 2]}...{path[-length // 2 :]}"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def _is_file_or_link(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() or entry.is_file()


def _is_foreign(folder: Path, name: str) -> bool:
    if folder.name.lower().endswith(_APPLE_LIBRARY):
        return name.lower() not in _APPLE_PHOTOS
    return _FOREIGN.fullmatch(name.lower()) is not None
