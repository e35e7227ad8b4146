"""Watch a folder for new photos, and report each when its file is complete.

The folder is polled. File system notifications would report changes sooner, but they don't work on
network drives, where many photo folders are, and miss files that arrive while nobody listens.
"""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from captioner.images import find_images

State: TypeAlias = tuple[int, int, int]
"""The state of a file, to detect changes: its size in bytes, and when its content and its
attributes, such as its permissions, were last changed, in nanoseconds."""


@dataclass
class Arrivals:
    """The photos of a folder that are complete and have not been reported yet.

    A file is complete when it is not empty, and its size and times are the same in two consecutive
    scans. A file that changes later is reported again, also if only its permissions do.

    Attributes:
        folder: The folder; its subfolders are scanned too.
        is_done: Whether there is nothing to do for a photo; called once for each state of a file,
            and after `again`.
    """

    folder: Path
    is_done: Callable[[str], bool]
    _seen: dict[Path, State] = field(default_factory=dict, repr=False)
    _given: dict[Path, State] = field(default_factory=dict, repr=False)

    def look(self) -> list[Path]:
        """Scan the folder, and return the photos completed since the last scan.

        Returns:
            Photos, sorted by their paths.

        Raises:
            ImageError: The folder does not exist.
        """
        now = {path: state for path in find_images(self.folder) if (state := _state(path))}
        complete = [
            path
            for path, state in now.items()
            if self._seen.get(path) == state and self._given.get(path) != state
        ]
        self._seen = now
        self._given = {path: state for path, state in self._given.items() if path in now}
        self._given.update((path, now[path]) for path in complete)
        return [path for path in complete if not self.is_done(str(path))]

    def again(self, photos: Iterable[Path]) -> None:
        """Let the next scan return photos that were returned before and haven't changed."""
        for photo in photos:
            self._given.pop(photo, None)


def _state(path: Path) -> State | None:
    """Return the state of a file; None if it is empty, missing or not a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
