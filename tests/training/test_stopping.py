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


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_the_notice_of_a_scheduler_never_counts_as_the_second_signal(first):
    """Slurm sends SIGUSR1 to the children of a sweep too, which has just sent them SIGTERM."""
    with noted_signals() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.number == first
        if first == signal.SIGUSR1:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_in_other_threads_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGINT), []

    def look():
        with noted_signals() as stop:
            seen.append((stop.number, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
