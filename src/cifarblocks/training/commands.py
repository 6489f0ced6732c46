"""A script from its first process to its exit status."""

import sys
from collections.abc import Callable

from cifarblocks.training.distributed import Processes, is_first, joined_processes
from cifarblocks.training.errors import RunError, StoppedError, UserError
from cifarblocks.training.memory import keep_freed_memory


def run_command(
    program: str,
    work: Callable[[Processes], object],
    after_interruption: str = "with --name and --resume it goes on from the last checkpoint",
) -> int:
    """Do the work of a script that trains in one process or many, as `exit_status` does.

    Args:
        program: name of the script, for the sentence that says what is wrong.
        work: called as work(processes).
        after_interruption: what to know after Ctrl-C.
    """

    def joined() -> None:
        with joined_processes() as processes:
            work(processes)

    return exit_status(program, joined, after_interruption)


def exit_status(program: str, work: Callable[[], int | None], after_interruption: str) -> int:
    """Do the work of a script: 0, 1 for a run that failed, 2 for a command that cannot work, or 128 and the signal.

    What is freed is kept for what is allocated next, for that is much of the time of a training step on a CPU.

    Args:
        program: name of the script, for the sentence that says what is wrong.
        work: called without arguments; a number that it returns is the status.
        after_interruption: what to know after Ctrl-C.
    """
    keep_freed_memory()
    try:
        return work() or 0
    except UserError as error:
        status, sentence = 2, str(error)
    except StoppedError as error:
        status, sentence = 128 + error.number, str(error)
    except RunError as error:
        status, sentence = 1, str(error)
    except OSError as error:
        status, sentence = 1, f"{error.filename or 'output'}: {error.strerror}; what was written before is whole"
    except KeyboardInterrupt:
        status, sentence = 130, f"interrupted; {after_interruption}"
    if is_first():
        print(f"{program}: error: {sentence}", file=sys.stderr)
    return status
