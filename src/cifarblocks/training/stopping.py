"""End of a command: SIGINT, SIGTERM and SIGUSR1, the processes' agreement to stop, and the exit status.

SIGINT (Ctrl-C), SIGTERM or SIGUSR1 (Slurm's notice) in any process ends training after the step. The processes agree, a
checkpoint is written, and the exit status is 128 plus the signal's number. A second SIGINT or SIGTERM ends the process
at once, as does any of the three outside of training. Before a command begins, `leaving.py` handles signals.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from cifarblocks.training.distributed import Processes, joined_processes
from cifarblocks.training.errors import RunError, StoppedError, UserError
from cifarblocks.training.hardware import keep_freed_memory
from cifarblocks.training.output import tell, tell_unwritten
from cifarblocks.training.run import Run
from cifarblocks.training.saving import check_finite, save_checkpoint

INSISTING = (signal.SIGINT, signal.SIGTERM)
# Windows has neither of these.
NOTICE, HANGUP = ([getattr(signal, name)] if hasattr(signal, name) else [] for name in ("SIGUSR1", "SIGHUP"))
Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class StopRequest:
    """The signal that asked this process to stop.

    Attributes:
        number: Number of the signal; 0 if none has come.
    """

    number = 0

    def note(self, number: int, _: FrameType | None) -> None:
        """Remember the signal; a second SIGINT or SIGTERM stops at once.

        SIGUSR1 does not count as a second signal: Slurm may send it just after a sweep has sent SIGTERM.
        """
        self.number = self.number or number
        if number in INSISTING:
            for each in INSISTING:
                signal.signal(each, interrupt)


def interrupt(number: int, _: FrameType | None) -> None:
    """Stop as Ctrl-C does, with the signal's number in the exit status."""
    raise KeyboardInterrupt(number)


@contextmanager
def handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals until the end of the block, in the main thread, where Python allows it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, before in kept.items():
            signal.signal(number, before)


@contextmanager
def noted_signals() -> Iterator[StopRequest]:
    """Record signals instead of ending at them."""
    request = StopRequest()
    with handled(dict.fromkeys([*INSISTING, *NOTICE], request.note)):
        yield request


def interrupting_signals() -> AbstractContextManager[None]:
    """Treat SIGTERM, SIGUSR1 and SIGHUP as Ctrl-C, except those that are ignored, as under nohup.

    Processes of one run wait for each other in C++, where Python handles no signal: there they end at once.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return handled(
        {
            number: signal.SIG_DFL if several and number != signal.SIGINT else interrupt
            for number in (*INSISTING, *NOTICE, *HANGUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }
    )


def between_steps(run: Run, stop: StopRequest) -> None:
    """Write a checkpoint if one is due, and end the run if a process was asked to stop or its loss is not finite.

    All processes check at the same step: each step on CPUs, every 20th on GPUs, because a check waits for the GPU.

    Raises:
        StoppedError: After a signal.
        RunError: If the loss, or a weight that would be saved, is not finite.
    """
    state, number = run.state, 0
    if run.processes.device.type == "cpu" or state.step % 20 == 0:
        number, lost = run.processes.largest([stop.number, not state.sums[0].isfinite()])
        if lost:
            check_finite(run)
    if number or (run.checkpoint_steps and state.step % run.checkpoint_steps == 0):
        save_checkpoint(run)
    if number:
        raise StoppedError(number, f"in epoch {len(state.history) + 1} after step {state.step}; {how_to_go_on(run)}")


def after_epoch(run: Run, stop: StopRequest) -> None:
    """End the run, which has just been saved, if a process was asked to stop since its last step.

    Raises:
        StoppedError: After a signal.
    """
    (number,) = run.processes.largest([stop.number])
    if number:
        raise StoppedError(number, f"after epoch {len(run.state.history)}; {how_to_go_on(run)}")


def how_to_go_on(run: Run) -> str:
    """Return the options that continue the run."""
    return f"--name {run.folder.name} --resume continues from there"


def run_command(program: str, work: Callable[[Processes], object], device: str | None = None) -> int:
    """Run a command that trains in one process or many, as `exit_status` does.

    Args:
        program: The command, for error messages.
        work: Called as work(processes).
        device: "cpu" or "cuda". Default: "cuda" if there is a GPU.
    """

    def joined() -> None:
        with joined_processes(device) as processes:
            work(processes)

    return exit_status(program, joined, "with --name and --resume it continues from the last checkpoint")


def exit_status(program: str, work: Callable[[], int | None], after_interruption: str) -> int:
    """Run a command; return 0, 1 if it failed, 2 if it cannot work, or 128 plus the signal.

    Args:
        program: The command, for error messages.
        work: Called without arguments; an integer that it returns is the status.
        after_interruption: Advice to print after Ctrl-C.
    """
    keep_freed_memory()
    try:
        with interrupting_signals():
            return work() or 0
    except UserError as error:
        status, sentence = 2, str(error)
    except StoppedError as error:
        status, sentence = 128 + error.number, f"{signal.Signals(error.number).name} {error}"
    except RunError as error:
        status, sentence = 1, str(error)
    except OSError as error:
        tell_unwritten(program, error)
        return 1
    except KeyboardInterrupt as error:
        number = signal.Signals(*error.args or (signal.SIGINT,))
        by = "" if number == signal.SIGINT else f" by {number.name}"
        status, sentence = 128 + number, f"interrupted{by}; {after_interruption}"
    tell(program, sentence)
    return status
