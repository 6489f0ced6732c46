"""Checkpoint files of a run: the last and the one before, for the day when the last one is damaged."""

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

# torch.save writes a zip file, which ends in the length of a comment (two bytes) and the comment: there stands a digest
# of all that is before it. Of the file itself zip has checksums of the contents alone, none of the names and sizes.
LABEL = b"sha256 "
COMMENT = len(LABEL) + 64


def write_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write all that is needed to go on, atomically; what was the last checkpoint is kept as the one before."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as view:
        view[-2:] = struct.pack("<H", COMMENT)
        digest = hashlib.sha256(view).hexdigest()
    buffer.seek(0, os.SEEK_END)
    buffer.write(LABEL + digest.encode())
    write_atomically(folder / CHECKPOINT, buffer.getbuffer(), previous=folder / PREVIOUS)


def read_checkpoint(folder: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the last checkpoint that is whole, on the CPU, or None where there is none yet.

    Args:
        folder: The folder of the run.
        run: What decides the result of the run, as `State` of it was saved with; older checkpoints do not say it.

    Raises:
        UserError: If there are checkpoints and none of them is whole, or the one that is whole is of another run.
    """
    damaged: list[tuple[Path, str]] = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        if not path.is_file():  # to open a pipe may never end
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
            last.replace(folder / DAMAGED)  # so that it does not take the place of the whole one
            print(f"{last} is damaged ({problem}) and is now {DAMAGED}; the one before it is used", flush=True)
        return checkpoint
    for path, problem in damaged:
        raise UserError(f"--resume: {path} is not what a run wrote ({problem}), and there is no whole one before it")
    return None


def load_whole(file: BinaryIO) -> dict[str, Any]:
    """Load a checkpoint, after making sure that its bytes are those that were written.

    Raises:
        Exception: Of whatever kind, if they are not.

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
        raise ValueError("its digest does not fit")
    file.seek(0)
    checkpoint = unpickle(file)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("run", {}), dict):
        raise ValueError("it does not hold the state of a run")
    return checkpoint


def check_zip(file: BinaryIO, end: bytes) -> None:
    """Check what surrounds the contents of a zip file of torch; those have checksums, which `unpickle` checks.

    Raises:
        Exception: Of whatever kind, if it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        attributes = any(entry.external_attr for entry in archive.infolist())
        if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0" or attributes:
            raise ValueError("it does not end, or has not the attributes, that torch writes")
