"""Whose photos lie in which files, and when they go: no photo outlives its visitor's visit."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

logger = logging.getLogger(__name__)


class Visits:
    """The uploaded photo that each visitor looks at.

    Gradio names an upload by its content, so visitors who upload the same photo share a file: it goes with the last
    of them.

    Args:
        kept: Gives the files that are never deleted: the examples.
    """

    def __init__(self, kept: Callable[[], Iterable[str]] = tuple) -> None:
        self._kept = kept
        self._photos: dict[str, Path] = {}
        self._lock = Lock()

    def look_at(self, visitor: str, photo: Path | None) -> None:
        """Note that a visitor now looks at a photo, or at none; the one before is deleted."""
        with self._lock:
            before = self._photos.pop(visitor, None)
            if photo is not None:
                self._photos[visitor] = photo
            if before is not None and before not in self._photos.values() and str(before) not in self._kept():
                before.unlink(missing_ok=True)
                logger.debug("deleted %s", before.name)

    def leave(self, visitor: str) -> None:
        """Note that a visitor is gone."""
        self.look_at(visitor, None)
