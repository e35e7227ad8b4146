"""Report the progress of long jobs in log lines, where no progress bar can be shown."""

import time
from collections.abc import Callable

EVERY = 60.0  # seconds


class ProgressLines:
    """Report at most once a minute what is done, the total, and the remaining time.

    Args:
        what: The job, as the beginning of a line: "Epoch 3".
        total: The total number of items; None if unknown.
        unit: The name of the items, such as "images".
        tell: Called with each line.
        done: The number of items done before.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        tell: Callable[[str], None],
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self.tell, self.clock = what, total, unit, tell, clock
        self._first = done
        self._began = self._told = clock()

    def at(self, done: int, more: str = "") -> None:
        """Report the number of items done, if the last line was a minute ago.

        Args:
            done: The number of items.
            more: Text to append to the line, beginning with its comma.
        """
        now = self.clock()
        if now - self._told < EVERY:
            return
        self._told = now
        if self.total is None:
            self.tell(f"{self.what}: {done:,} {self.unit}{more}")
            return
        left = ""
        if self._first < done < self.total:
            left = (
                f", {_in_words((now - self._began) / (done - self._first) * (self.total - done))}"
                " left"
            )
        self.tell(f"{self.what}: {done:,} of {self.total:,} {self.unit}{more}{left}")


def _in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 120:
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {minutes / 60:.1f} hours"
