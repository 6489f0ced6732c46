"""Refuse a file in one sentence, whatever is wrong with it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(path: Path, done: str) -> Iterator[None]:
    """Turn any error inside the block into a ValueError that names the file and what cannot be done with it.

    The block is not entered for what is not a regular file.
    """
    try:
        require_regular(path)
        yield
    except Exception as error:  # torch, pickle, zipfile, safetensors and Pillow each raise several of their own
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be {done}: {reason}") from error


def require_regular(path: Path) -> None:
    """Refuse what is not a regular file, without opening it: to open a pipe, or read a device, may never end.

    Raises:
        OSError: If the file is missing, or its folder cannot be searched.
        ValueError: If it is of another kind.

    >>> require_regular(Path("."))
    Traceback (most recent call last):
    ValueError: it is a folder, not a file
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"it is {KINDS.get(kind, 'of another kind')}, not a file")
