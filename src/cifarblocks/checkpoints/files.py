"""Read a file, or refuse a damaged one in one sentence."""

import hashlib
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

ZIP = b"PK\3\4"
PIECE = 2**20  # bytes that are hashed at a time

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(path: Path, done: str) -> Iterator[None]:
    """Turn any error inside the block into a ValueError "FILE cannot be ...: reason".

    The block is not entered for a folder, pipe or device.
    """
    try:
        require_regular(path)
        path.open("rb").close()  # safetensors reports every file that it cannot open as missing
        yield
    except Exception as error:  # torch, pickle, zipfile, safetensors and Pillow each raise several of their own
        raise ValueError(f"{path} cannot be {done}: {first_line(error)}") from error


def require_regular(path: Path) -> None:
    """Refuse a path that is not a regular file, without opening it: opening a pipe may never return.

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


def first_line(error: BaseException) -> str:
    r"""Return the message of an error, on one line.

    >>> first_line(KeyError("model")), first_line(ValueError()), first_line(RuntimeError("one\ntwo"))
    ("'model'", 'ValueError', 'one')
    """
    if isinstance(error, RecursionError):
        return "its brackets are nested too deeply"
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def unpickle(file: BinaryIO) -> Any:
    """Load a file of `torch.save` on the CPU: tensors and plain values; nothing else is unpickled.

    Raises:
        ValueError: If the file is damaged or holds anything else. Its message replaces torch's, which may advise to
            unpickle it.
    """
    try:
        if file.read(len(ZIP)) == ZIP:  # torch does not check the checksums
            with zipfile.ZipFile(file) as archive:
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {part} does not match")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript archive before it refuses it
            return torch.load(file, map_location="cpu", weights_only=True)
    except EOFError:
        raise ValueError("it is empty or truncated") from None
    except MemoryError:
        raise
    except Exception:  # a dozen kinds: zlib.error, KeyError, UnpicklingError, RuntimeError
        raise ValueError(
            "it is damaged, or not a file of torch.save that holds only tensors and plain values"
        ) from None


def file_digest(path: Path) -> str:
    """Return the first 16 digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return sha256_of(file, path.stat().st_size)[:16]


def sha256_of(file: BinaryIO, length: int) -> str:
    """Return the SHA-256 of the first bytes of a file; no more than a piece of it is in memory."""
    digest = hashlib.sha256()
    file.seek(0)
    for begin in range(0, length, PIECE):
        digest.update(file.read(min(PIECE, length - begin)))
    return digest.hexdigest()
