"""Errors that a command reports in one sentence, without a traceback."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cifarblocks.checkpoints.files import first_line

TAKE_MEMORY = ("--model", "--image-size", "--batch-size")


class UserError(Exception):
    """A command that cannot work; the message is one sentence that names the option or the file, and the value."""


class RunError(Exception):
    """A failure of a run that could have worked; the message is one sentence."""


class StoppedError(RunError):
    """A signal ended a run that can continue later.

    Args:
        number: Number of the signal.
        sentence: The step reached, and how to continue.
    """

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(number, sentence)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[1])


@contextmanager
def refusing(before: str = "") -> Iterator[None]:
    """Turn a ValueError inside the block into a UserError, with text in front of its message."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{before}{first_line(error)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the memory of the machine or of a GPU did not suffice.

    Only the message of torch's error tells it on a CPU: its error type is for GPUs, under two names.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (True, True)
    """
    said = ("out of memory", "DefaultCPUAllocator", "bad_alloc")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def out_of_memory(arguments: Sequence[str], *, training: bool) -> str:
    """Return a message about too little memory: the options given that need memory.

    Args:
        arguments: Arguments after the command.
        training: True for a command that has all of these options.

    >>> out_of_memory(["--evaluate", "--image-size=2000"], training=False)
    'out of memory with --image-size 2000; a smaller --image-size takes less'
    """
    reader = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in TAKE_MEMORY:
        reader.add_argument(name, dest=name)
    given = {name: value for name, value in vars(reader.parse_known_args(arguments)[0]).items() if value is not None}
    typed = "".join(f" {name} {value}" for name, value in given.items())
    remedy = " or ".join(TAKE_MEMORY if training else given)
    return "out of memory" + (f" with{typed}" if typed else "") + (f"; a smaller {remedy} takes less" if remedy else "")
