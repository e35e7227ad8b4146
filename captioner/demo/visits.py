"""Whose photos lie in which files, and when they go: no photo outlives its visitor's visit."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

logger = logging.getLogger(__name__)


class Visits:
    """The uploaded photo that each visitor looks at.

    Gradio names an upload by its content, so visitors who upload the same photo share a file: it
    goes with the last of them, and not while one whose request still waits has yet to look at it.

    Args:
        kept: Gives the files that are never deleted: the examples.

    Attributes:
        kept: Likewise; may be set later.
    """

    def __init__(self, kept: Callable[[], Iterable[str]] = tuple) -> None:
        self.kept = kept
        self._photos: dict[str, Path] = {}
        self._awaited: Counter[Path] = Counter()  # uploads that nobody looked at yet
        self._lock = Lock()

    def expect(self, photo: Path) -> None:
        """Note an upload: somebody will look at it."""
        with self._lock:
            self._awaited[photo] += 1

    def look_at(self, visitor: str, photo: Path | None) -> None:
        """Note that a visitor now looks at a photo, or at none; the one before is deleted."""
        with self._lock:
            before = self._photos.pop(visitor, None)
            if photo is not None:
                self._photos[visitor] = photo
                if photo != before:
                    self._awaited -= Counter([photo])  # drops those that come to nothing
            if before is None or before in self._photos.values() or before in self._awaited:
                return
            if str(before) not in self.kept():
                before.unlink(missing_ok=True)
                logger.debug("deleted %s", before.name)

    def leave(self, visitor: str) -> None:
        """Note that a visitor is gone."""
        self.look_at(visitor, None)
