"""Errors that are told in one clear sentence, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from cifarblocks.checkpoints.files import first_line

OUT_OF_MEMORY = "out of memory; a smaller --batch-size, --image-size or --model takes less"


class UserError(Exception):
    """A command that cannot work; the message is one sentence that names the option or the file, and the value."""


class RunError(Exception):
    """A failure of a run that could have worked; the message is one sentence."""


class StoppedError(RunError):
    """A signal ended a run that can go on later.

    Args:
        number: Number of the signal.
        sentence: Where the run stands, and how to go on.
    """

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(number, sentence)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[1])


@contextmanager
def refusing(before: str = "") -> Iterator[None]:
    """Turn a ValueError inside the block into a UserError, with what stands before its sentence."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{before}{first_line(error)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the memory of the machine or of a GPU did not suffice.

    Torch says it by the message alone: the one type that it has is for GPUs, under two names.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (True, True)
    """
    said = ("out of memory", "DefaultCPUAllocator", "bad_alloc")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
