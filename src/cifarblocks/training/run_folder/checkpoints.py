"""Checkpoint files of a run: the last one, and the one before in case the last one is damaged."""

import hashlib
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cifarblocks.checkpoints.files import first_line, sha256_of, unpickle
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.same import check_same

CHECKPOINT, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint_before.pt", "checkpoint_damaged.pt"

# torch.save writes a zip file, which ends in the length of a comment (two bytes) and the comment. The comment is a
# digest of all bytes before it: zip's own checksums cover the contents, but not the names and sizes.
LABEL = b"sha256 "
COMMENT = len(LABEL) + 64


def write_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, and keep the old one as the checkpoint before."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as view:
        view[-2:] = struct.pack("<H", COMMENT)
        digest = hashlib.sha256(view).hexdigest()
    buffer.seek(0, os.SEEK_END)
    buffer.write(LABEL + digest.encode())
    write_atomically(folder / CHECKPOINT, buffer.getbuffer(), previous=folder / PREVIOUS)


def read_checkpoint(folder: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the last undamaged checkpoint, on the CPU, or None if there is no checkpoint yet.

    Args:
        folder: The folder of the run.
        run: Options and data that decide the result of the run; older checkpoints do not record them.

    Raises:
        UserError: If every checkpoint is damaged, or the undamaged one is of another run.
    """
    damaged: list[tuple[Path, str]] = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        if not path.is_file():  # opening a pipe may never return
            damaged.append((path, "it is not a file"))
            continue
        with path.open("rb") as file:
            try:
                checkpoint = load_whole(file)
            except Exception as error:  # for damaged bytes zipfile and torch raise a dozen kinds, zlib.error among them
                damaged.append((path, first_line(error)))
                continue
        check_same(f"{path} is of a run", checkpoint.get("run", {}), run)
        for last, problem in damaged:
            last.replace(folder / DAMAGED)  # so that the next checkpoint does not replace the undamaged one by it
            print(
                f"{last} is damaged ({problem}) and is now {DAMAGED}; the checkpoint before is used",
                flush=True,
            )
        return checkpoint
    for path, problem in damaged:
        raise UserError(f"--resume: {path} cannot be used ({problem}), and there is no undamaged checkpoint before it")
    return None


def load_whole(file: BinaryIO) -> dict[str, Any]:
    """Load a checkpoint after a check that no byte has changed.

    Raises:
        Exception: Any kind, if a byte has changed.

    >>> load_whole(io.BytesIO(b"PK and then nothing"))
    Traceback (most recent call last):
    zipfile.BadZipFile: File is not a zip file
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - COMMENT))
    end = file.read()
    if not end.startswith(LABEL):  # written before there were digests
        check_zip(file, end)
    elif end != LABEL + sha256_of(file, size - COMMENT).encode():
        raise ValueError("its digest does not match")
    file.seek(0)
    checkpoint = unpickle(file)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("run", {}), dict):
        raise ValueError("it does not hold the state of a run")
    return checkpoint


def check_zip(file: BinaryIO, end: bytes) -> None:
    """Check what surrounds the contents of a zip file of torch; those have checksums, which `unpickle` checks.

    Raises:
        Exception: Any kind, if it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        attributes = any(entry.external_attr for entry in archive.infolist())
        if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0" or attributes:
            raise ValueError("its end or its attributes are not those that torch writes")
