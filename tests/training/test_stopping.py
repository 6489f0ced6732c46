import os
import signal
import threading

import pytest

from cifarblocks.training.stopping import noted_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_stops(number):
    before = signal.getsignal(number)
    with noted_signals() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_other_threads_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGINT), []

    def look():
        with noted_signals() as stop:
            seen.append((stop.number, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
