"""Ctrl-C and SIGTERM end a long phase where it is: one that has nothing to save, or saves as it goes."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_at_once(signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Let signals raise an exception, as Ctrl-C does in Python, so that what is open is closed.

    Signals reach a program's first thread alone; in others, nothing changes.

    Args:
        signals: Which ones.

    Raises:
        SystemExit: One came; with the status 128 + its number, as shells have it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
