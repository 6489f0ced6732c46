import os
import signal
import threading

import pytest
from refusals import assert_names

from cifarblocks.training.stopping import exit_status, noted_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_stops(number):
    before = signal.getsignal(number)
    with noted_signals() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt) as insisted:
            os.kill(os.getpid(), number)
        assert insisted.value.args == (number,)
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


def killed_by(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_outside_of_training_a_signal_ends_a_command_with_its_status(number, signals, capsys):
    before = signal.getsignal(number)
    assert exit_status("a.py", killed_by(number), "repeat the command to continue") == 128 + number
    name = "interrupted" if number == signal.SIGINT else number.name
    assert_names(capsys.readouterr().err, "a.py: error", name, "repeat the command to continue")
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so(signals):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert exit_status("a.py", killed_by(signal.SIGHUP), "") == 0


def test_processes_that_wait_for_each_other_are_ended_at_once(signals, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    exit_status("a.py", lambda: found.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGUSR1))), "")
    assert found == [signal.SIG_DFL] * 2
