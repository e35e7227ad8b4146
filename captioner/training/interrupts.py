"""Ctrl-C and SIGTERM in the middle of training."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from captioner.stopping import SIGNALS

logger = logging.getLogger(__name__)


class Interrupts:
    """Remembers the first Ctrl-C or SIGTERM, so that training can finish its step and save; a second one ends it there.

    True once there was one.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __bool__(self) -> bool:
        return self._received is not None

    def heed(self) -> None:
        """Take over both signals, which reach a program's first thread alone."""
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Give them back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def stop(self) -> NoReturn:
        """End the process as the signal would have.

        Raises:
            SystemExit: With the status 128 + its number, as shells have it.
        """
        raise SystemExit(128 + (self._received or signal.SIGTERM))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self:
            self.stop()
        self._received = number
        logger.info("Stopping after this step; once more to stop without saving.")
