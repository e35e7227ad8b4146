"""Photos that arrive in a folder, each when its file is complete.

The folder is looked through again and again. Notifications of the system would tell of changes
sooner, but not on network drives, where many photo folders are, and not of files that came while
nobody listened.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from captioner.images import find_images

State: TypeAlias = tuple[int, int]
"""What tells a file from one that has changed since: its size in bytes, its time in nanoseconds."""


@dataclass
class Arrivals:
    """The photos of a folder that are complete and that nobody has had yet.

    A file is complete when its size and its time of change are the same in two looks in a row, and
    it isn't empty. One that changes later is given again.

    Attributes:
        folder: The folder; those in it are looked through too.
        is_done: Whether there is nothing to do for a photo; asked once for each state of a file.
    """

    folder: Path
    is_done: Callable[[str], bool]
    _seen: dict[Path, State] = field(default_factory=dict, repr=False)
    _given: dict[Path, State] = field(default_factory=dict, repr=False)

    def look(self) -> list[Path]:
        """Look through the folder, and give what has become complete since the last look.

        Returns:
            Photos, in the order of their paths.

        Raises:
            ImageError: The folder is not there.
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


def _state(path: Path) -> State | None:
    """Return the state of a file; None if it is empty, no file or gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    return found.st_size, found.st_mtime_ns
