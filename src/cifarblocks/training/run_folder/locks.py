"""Locks between processes, on any machines that share a disk, in the folder OUTPUT/.locks.

The operating system releases a lock when its process ends in any way. The files stay: removing one could let
two processes in. While no process runs, the folder may be removed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cifarblocks.training.errors import UserError

LOCKS = ".locks"
LOCK_TIMEOUT = 0.5  # seconds to wait for a run's lock, because `is_locked` elsewhere holds it for milliseconds


class InUseError(UserError):
    """Another process holds the lock."""


def run_lock(folder: Path) -> Path:
    """Return the file of the lock of a run, OUTPUT/.locks/MODEL/NAME.lock for the folder OUTPUT/MODEL/NAME."""
    return folder.parents[1] / LOCKS / folder.parent.name / f"{folder.name}.lock"


@contextmanager
def locked(file: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold a lock until the end of the block, or of this process.

    Args:
        file: The file of the lock.
        timeout: Seconds to wait while another process holds it; -1 to wait without end.

    Raises:
        InUseError: If another process still holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout)
    try:
        lock.acquire()
    except Timeout:
        raise InUseError(f"another process holds the lock {file}") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(file: Path) -> bool:
    """Return True if a process holds a lock."""
    if not file.exists():
        return False
    try:
        with locked(file, timeout=0):
            return False
    except InUseError:
        return True
