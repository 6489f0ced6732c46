"""Commands in processes of their own, forked from the test's, so that nothing is imported again."""

import multiprocessing
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path


def start(command: Callable[[], int]) -> BaseProcess:
    """Run a command; its exit status is that of the process."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(command()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process may have threads
        process.start()
    return process


def kill_with_children(process: BaseProcess) -> None:
    """Send SIGKILL to a process and what it has started."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert children
    for number in (process.pid, *map(int, children)):
        os.kill(number, signal.SIGKILL)
    process.join()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition, not without end."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def events(folder: Path, word: str) -> list[str]:
    """Return the runs for which the stand-in has written a word, in order."""
    file = folder / "events"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [name for _, noted, name in lines if noted == word]
