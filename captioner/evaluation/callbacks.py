"""Callbacks of an evaluation: progress, and metrics that could not be computed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Track: TypeAlias = Callable[[Iterable[Any], int], Iterable[Any]]
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions that an evaluation calls while it runs.

    Attributes:
        track: Wraps an iterable (of captions, then of metrics), given its length, for example in a
            progress bar.
        fail: Called with a message if a metric that needs Java or the images cannot be computed;
            the evaluation continues without it. If None, the error is raised.
    """

    track: Track = lambda items, _: items
    fail: Tell | None = None

    def about(self, name: str) -> "Callbacks":
        """Return callbacks for another system, whose name is put before messages."""
        fail = self.fail
        return (
            self
            if fail is None
            else Callbacks(self.track, lambda message: fail(f"{name}: {message}"))
        )
