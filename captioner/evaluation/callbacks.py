"""What is told while an evaluation runs: how far it is, and what could not be computed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Track: TypeAlias = Callable[[Iterable[Any], int], Iterable[Any]]
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions that an evaluation calls while it runs.

    Attributes:
        track: Is given what is worked through, captions and then metrics, and how many, and passes
            them on: a progress bar.
        fail: Is told why a metric that needs Java or the images cannot be computed here, and all
            else goes on; without it, that is raised.
    """

    track: Track = lambda items, _: items
    fail: Tell | None = None

    def about(self, name: str) -> "Callbacks":
        """The same for another system, whose name goes before what is told."""
        fail = self.fail
        return (
            self
            if fail is None
            else Callbacks(self.track, lambda message: fail(f"{name}: {message}"))
        )
