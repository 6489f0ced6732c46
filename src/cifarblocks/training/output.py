"""Output of a command: one-line errors on any terminal, and a fallback where the output cannot be written."""

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO, TypeVar

from cifarblocks.checkpoints.files import first_line

T = TypeVar("T")


def is_first() -> bool:
    """Return True for process 0, before the processes have connected; also if RANK is no number."""
    rank = os.environ.get("RANK", "0")
    return not rank.isdecimal() or int(rank) == 0


def open_streams() -> None:
    """Give stdin, stdout and stderr a file where they are closed, and escape what a terminal cannot show.

    The file takes the number of the closed one. Otherwise a file of the run could get it, and the messages of
    libraries.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")


def escaped(text: str) -> str:
    r"""Escape the parts of a text that UTF-8 cannot encode: bytes of a file name that are not UTF-8.

    >>> escaped("caf\udcff")
    'caf\\udcff'
    """
    return text.encode(errors="backslashreplace").decode()


def one_line(text: object) -> str:
    r"""Escape the characters of a text that move the cursor, colour the terminal or end the line.

    >>> one_line("red\x1b[31m\ncat")
    'red\\x1b[31m\\ncat'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def progress(
    items: Iterable[T], name: str, unit: str = "it", *, length: int | None = None, done: int = 0
) -> Iterable[T]:
    """Return the items, with a progress bar on a terminal if tqdm is installed.

    Args:
        items: The items.
        name: Name of the work.
        unit: Name of one item.
        length: Number of all of them. Default: `len(items)`.
        done: Number of items finished earlier.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return items
    return tqdm(items, name, length, leave=False, disable=None, unit=unit, initial=done)


def tell(program: str, sentence: str, *, once: bool = True) -> None:
    """Print an error on stderr in one line; do nothing if stderr cannot be written.

    Args:
        program: The command.
        sentence: The error and its remedy.
        once: Print it only in process 0.
    """
    if once and not is_first():
        return
    try:
        print(f"{program}: error: {one_line(sentence)}", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def tell_unwritten(program: str, error: OSError) -> None:
    """Print which file could not be written, or nothing if the reader of the output has ended, as after `| head`."""
    if error.filename is None:
        discard(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        reason = error.strerror or first_line(error)
        tell(program, f"{error.filename or 'output'}: {reason}; files written before are complete")


def discard(stream: TextIO) -> None:
    """Redirect a stream to nowhere: Python flushes it at its end and would fail again."""
    with suppress(OSError):  # a stream without a file, as in a notebook, has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
