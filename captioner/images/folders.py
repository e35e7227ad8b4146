"""What of a folder is a photo of the user's."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from captioner.errors import ImageError
from captioner.images.formats import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

# Folders, in lower case, where systems and photo managers keep thumbnails, copies and what was thrown away.
_FOREIGN = re.compile(
    "|".join(
        (
            r"@(eadir|recycle|recently-snapshot|sharebin|sharesnap|tmp|__thumb|transcode|quarantine)",  # of NAS
            r"#(recycle|snapshot)",
            r"\$recycle\.bin|recycler|recycled|system volume information|found\.\d{3}",  # Windows
            r"lost\+found|lost\.dir",
            r"__macosx|network trash folder|temporary items|ipod photo cache",  # macOS
            r"\.(trash.*|trashes|thumbnails|thumbs|@__thumb|appledouble|picasaoriginals|dtrash|snapshots?)",
            r".*\.lrdata|captureone",  # previews of Lightroom and Capture One
        )
    )
)
_APPLE_LIBRARY, _APPLE_PHOTOS = ".photoslibrary", ("originals", "masters")  # beside them: previews and faces


def find_images(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Find the images below a folder, by their suffix.

    Hidden files and folders are left out, links to folders are not followed, and a folder that may not be read is
    skipped with a warning. What systems and photo managers keep beside the photos (`@eaDir`, `#recycle`, `__MACOSX`,
    `._photo.jpg`) is left out too, and a warning at the end says so. `path` itself may be such a folder.

    Args:
        path: The folder.

    Returns:
        An iterator over paths that start with `path`, in the order of their parts; it reads one folder at a time.

    Raises:
        ImageError: There is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(str(folder), "is not a folder" if folder.exists() else "does not exist")
    return _find(folder)


def _find(folder: Path) -> Iterator[Path]:
    left_out: Counter[str] = Counter()
    yield from _walk(folder, left_out)
    if left_out:
        names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in left_out.most_common(5))
        more = ", ..." if len(left_out) > 5 else ""
        logger.warning(
            "%s: left out what systems and photo managers keep beside photos: %s%s. Name such a folder to have it.",
            folder,
            names,
            more,
        )


def _walk(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        logger.warning("%s: skipped, it cannot be read (%s)", folder, error.strerror)
        return
    for entry in entries:
        if entry.is_dir():
            if _is_foreign(folder, entry.name):
                left_out[entry.name] += 1
            elif not entry.is_symlink() and not entry.name.startswith("."):
                yield from _walk(folder / entry.name, left_out)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and (entry.is_file() or entry.is_symlink()):
            if entry.name.startswith("._"):  # what macOS notes of a file where its disk has no place for it
                left_out["._*"] += 1
            elif not entry.name.startswith("."):
                yield folder / entry.name  # a broken link too: opening it says so


def _is_foreign(folder: Path, name: str) -> bool:
    if folder.name.lower().endswith(_APPLE_LIBRARY):
        return name.lower() not in _APPLE_PHOTOS
    return _FOREIGN.fullmatch(name.lower()) is not None
