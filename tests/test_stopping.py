import os
import signal
import threading

import pytest

from captioner.stopping import stop_at_once


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_runs_as_an_exception_and_handlers_come_back(
    number: int, status: int
) -> None:
    before = signal.getsignal(number)
    closed = []
    with pytest.raises(SystemExit) as stopped, stop_at_once():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            closed.append(number)
    assert stopped.value.code == status
    assert closed == [number]
    assert signal.getsignal(number) is before


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def look() -> None:
        with stop_at_once():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
