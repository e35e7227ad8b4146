"""Track which visitor looks at which upload, and delete uploads when their visitors leave."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

logger = logging.getLogger(__name__)


class Visits:
    """The uploaded photo that each visitor looks at.

    Gradio names an upload by its content, so visitors who upload the same photo share a file. It is
    deleted when the last of them leaves, and not while a request for it is pending.

    Args:
        kept: Returns the files that are never deleted: the examples.

    Attributes:
        kept: Returns the files that are never deleted; may be set later.
    """

    def __init__(self, kept: Callable[[], Iterable[str]] = tuple) -> None:
        self.kept = kept
        self._photos: dict[str, Path] = {}
        self._awaited: Counter[Path] = Counter()  # uploads that no visitor has looked at yet
        self._lock = Lock()

    def expect(self, photo: Path) -> None:
        """Register an upload that a visitor will look at."""
        with self._lock:
            self._awaited[photo] += 1

    def look_at(self, visitor: str, photo: Path | None) -> None:
        """Register the photo that a visitor looks at, if any; delete the previous one."""
        with self._lock:
            before = self._photos.pop(visitor, None)
            if photo is not None:
                self._photos[visitor] = photo
                if photo != before:
                    self._awaited -= Counter([photo])  # removes counts of 0
            if before is None or before in self._photos.values() or before in self._awaited:
                return
            if str(before) not in self.kept():
                before.unlink(missing_ok=True)
                logger.debug("deleted %s", before.name)

    def leave(self, visitor: str) -> None:
        """Register that a visitor has left."""
        self.look_at(visitor, None)
