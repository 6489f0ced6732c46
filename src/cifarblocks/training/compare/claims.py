"""Claims of runs: sweeps and searches, on any machines, take runs from each other by locks on a disk."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cifarblocks.training.run_folder.locks import InUseError, is_locked, locked

POLL = 2.0  # seconds between two looks at what other processes train


@contextmanager
def claimed(claim: Path, locks: Iterable[Path]) -> Iterator[None]:
    """Keep other sweeps and searches from a run while this process starts and watches it.

    The process that trains the run locks it only once its data are read, and it may outlive the sweep that started it.
    So a run is free when neither is held: the claim of a sweep, and the lock of the run itself.

    Args:
        claim: The file of the claim.
        locks: Those of the run itself.

    Raises:
        InUseError: If another process watches the run, or trains it.
    """
    with locked(claim, timeout=0):
        for lock in locks:
            if is_locked(lock):
                raise InUseError(f"another process holds the lock {lock}")
        yield
