"""A run of one or two processes that is killed at random moments ends like one that was never killed."""

import os
import random
import signal
import time
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from commands import EVERYTHING_RANDOM, folder_until_exit, write_shades
from run_folders import assert_same_run
from together import printed, start_together

RARE = 400  # too slow for the quick tests; tests/training/test_survival.py has some
COMMAND = ["train", *EVERYTHING_RANDOM, "--batch-size", "8", "--name", "storm"]  # so that each of two has two images
RUN = Path("runs", "eca_resnet_20", "storm")
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def case(seed: int) -> None:
    """Stop a process of the run again and again; the others end too, and the run goes on to the same end."""
    draw = random.Random(seed)
    processes = draw.choice((1, 1, 2))
    untouched, seconds = whole(processes)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_shades(folder / "shades")
        for _ in range(draw.randint(1, 4)):
            (folder / "out_0").unlink(missing_ok=True)
            group = start_together(COMMAND, folder, processes)
            time.sleep(draw.uniform(0, seconds))
            victim = draw.choice(group)
            if victim.is_alive():
                os.kill(victim.pid, draw.choice(SIGNALS))
            wait_for(group, folder)
        run_to_its_end(folder, processes)
        assert_same_run(untouched / RUN, folder / RUN)


def wait_for(group: list[BaseProcess], folder: Path) -> None:
    """Wait until all processes have ended; those that trained together end by themselves.

    A process that waits for a killed one to join would wait forever; a launcher such as torchrun ends it.
    """
    for process in group:
        process.join(timeout=60)
        if process.exitcode is None and not (folder / "out_0").read_text():
            process.terminate()
            process.join(timeout=60)
        assert process.exitcode is not None, "it hangs"


def run_to_its_end(folder: Path, processes: int) -> None:
    group = start_together(COMMAND, folder, processes)
    for process in group:
        process.join(timeout=120)
    assert [process.exitcode for process in group] == [0] * processes, printed(folder, processes)


KEPT = folder_until_exit()


@cache
def whole(processes: int) -> tuple[Path, float]:
    """Return the folder of a run that nobody touched, and the seconds that it took."""
    folder = Path(KEPT, str(processes))
    write_shades(folder / "shades")
    began = time.monotonic()
    run_to_its_end(folder, processes)
    return folder, time.monotonic() - began
