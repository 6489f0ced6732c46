"""End a command at Ctrl-C or SIGTERM with one line, also while it imports torch, which takes seconds.

The package imports this file first. Programs that import cifarblocks keep their own handlers.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn


def is_command() -> bool:
    """Return True if Python was started as `cifarblocks`, or as `python -m cifarblocks`."""
    program = "".join(sys.argv[:1])
    if program == "-m":  # until Python has found the module, whose name comes before the arguments
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "cifarblocks"
    return Path(program).name == "cifarblocks"


def leave(number: int, _: FrameType | None) -> NoReturn:
    """Print the name of the signal and end the process at once, because an import could catch an exception."""
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"cifarblocks: error: interrupted{name}\n".encode())
    os._exit(128 + number)


if is_command():
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) != signal.SIG_IGN:  # as under nohup or a shell's &
            signal.signal(each, leave)
