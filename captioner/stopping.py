"""Stop at once on Ctrl-C and SIGTERM, in phases without state to save."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_at_once(signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Turn signals into an exception, as Python does with Ctrl-C, so that resources are closed.

    Does nothing outside the main thread.

    Args:
        signals: The signals.

    Raises:
        SystemExit: A signal was received; the status is 128 + its number, as in shells.
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
