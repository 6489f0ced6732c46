"""Claims of runs: locks on a disk divide runs between sweeps and searches, on any machines."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cifarblocks.training.run_folder.locks import InUseError, is_locked, locked

POLL = 2.0  # seconds between two checks of the runs of other processes


@contextmanager
def claimed(claim: Path, locks: Iterable[Path]) -> Iterator[None]:
    """Keep other sweeps and searches away from a run while this process starts and watches it.

    The process that trains the run locks it only once its data are read, and it may outlive the sweep that started it.
    So a run is free if neither the claim of a sweep nor the lock of the run is held.

    Args:
        claim: The file of the claim.
        locks: Locks of the run itself.

    Raises:
        InUseError: If another process watches the run, or trains it.
    """
    with locked(claim, timeout=0):
        for lock in locks:
            if is_locked(lock):
                raise InUseError(f"another process holds the lock {lock}")
        yield
