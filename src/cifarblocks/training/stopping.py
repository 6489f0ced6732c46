"""Ctrl-C and SIGTERM: noted when they come, answered when the training loop has a whole step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        number: of the signal; 0 if none has come.
    """

    number = 0

    def note(self, number: int, _: FrameType | None) -> None:
        """Remember the signal; a second one stops at once."""
        self.number = number
        for each in STOPPING:
            signal.signal(each, signal.default_int_handler)


@contextmanager
def noted_signals() -> Iterator[StopRequest]:
    """Note signals instead of being stopped by them; where Python allows it, which is in the main thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    kept = {number: signal.signal(number, request.note) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def stop_on_signals() -> None:
    """Let SIGTERM and the end of the terminal do what Ctrl-C does, unless they are ignored, as nohup has it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
