"""Handle Ctrl-C and SIGTERM during training."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from captioner.stopping import SIGNALS

logger = logging.getLogger(__name__)


class Interrupts:
    """Record the first Ctrl-C or SIGTERM, so that training can finish its step and save.

    A second signal ends the process at once. An instance is true once a signal was received.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __bool__(self) -> bool:
        return self._received is not None

    def heed(self) -> None:
        """Install handlers for both signals; does nothing outside the main thread."""
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def stop(self) -> NoReturn:
        """End the process as the signal would have.

        Raises:
            SystemExit: With the status 128 + the signal's number, as in shells.
        """
        raise SystemExit(128 + (self._received or signal.SIGTERM))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self:
            self.stop()
        self._received = number
        logger.info("Stopping after this step; interrupt again to stop without saving.")
