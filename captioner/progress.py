"""How far a long job has come, a line a minute, where no progress bar can be shown."""

import time
from collections.abc import Callable

EVERY = 60.0  # seconds


class ProgressLines:
    """Tells now and then what is done, what there is to do, and how long that will take.

    Args:
        what: The job, as the beginning of a line: "Epoch 3".
        total: How many things there are to do; None if nobody knows.
        unit: What they are, such as "images".
        tell: Is given each line.
        done: How many of them were done before.
        clock: Gives the time in seconds.
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
        """Tell that so many things are done, if the last line was a minute ago.

        Args:
            done: How many.
            more: What else the line says of it, from its comma on.
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
