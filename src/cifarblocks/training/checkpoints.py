"""Two checkpoints of a run: the last one, and the one before it for the day when the last one is damaged."""

import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError, first_line
from cifarblocks.training.run_folder.folder import check_same
from cifarblocks.training.state import State

CHECKPOINT, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint_before.pt", "checkpoint_damaged.pt"

# torch.save writes a zip file, which ends in the length of a comment (two bytes) and the comment: there stands a digest
# of all that is before it. Of the file itself zip has checksums of the contents alone, none of the names and sizes.
LABEL = b"sha256 "
COMMENT = len(LABEL) + 64


def write_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write all that is needed to go on, atomically; what was the last checkpoint is kept as the one before."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(folder / CHECKPOINT, with_digest(buffer.getvalue()), previous=folder / PREVIOUS)


def read_checkpoint(folder: Path, run: dict[str, Any]) -> bytes | None:
    """Return the content of the last checkpoint that is whole, or None where there is none yet.

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
        content = path.read_bytes()
        try:
            checkpoint = load_whole(content)
        except Exception as error:  # for damaged bytes zipfile and torch raise a dozen kinds, zlib.error among them
            damaged.append((path, first_line(error)))
            continue
        check_same(f"{path} is of a run", checkpoint.get("run", {}), run)
        for last, problem in damaged:
            last.replace(folder / DAMAGED)  # so that it does not take the place of the whole one
            print(f"{last} is damaged ({problem}) and is now {DAMAGED}; the one before it is used", flush=True)
        return content
    for path, problem in damaged:
        raise UserError(f"--resume: {path} is not what a run wrote ({problem}), and there is no whole one before it")
    return None


def with_digest(content: bytes) -> bytes:
    """Return the bytes of a zip file without a comment with their digest as its comment."""
    content = content[:-2] + struct.pack("<H", COMMENT)
    return content + LABEL + hashlib.sha256(content).hexdigest().encode()


def load_whole(content: bytes) -> dict[str, Any]:
    """Load a checkpoint, after making sure that its bytes are those that were written.

    Raises:
        Exception: Of whatever kind, if they are not.

    >>> load_whole(b"PK and then nothing")
    Traceback (most recent call last):
    zipfile.BadZipFile: File is not a zip file
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if file.comment:
            if with_digest(content[: -len(file.comment)]) != content:
                raise ValueError("its digest does not fit")
        elif (part := file.testzip()) is not None:  # written before there were digests
            raise ValueError(f"the checksum of {part} does not fit")
        elif (
            content[-22:-18] != b"PK\5\6"
            or content[-2:] != b"\0\0"
            or any(entry.external_attr for entry in file.infolist())
        ):
            raise ValueError("it does not end, or has not the attributes, that torch writes")
    checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("run", {}), dict):
        raise ValueError("it does not hold the state of a run")
    return checkpoint


def restore(content: bytes, state: State, processes: Processes) -> None:
    """Bring a state to where a checkpoint was written.

    Raises:
        UserError: if the checkpoint is of another model, or lacks something.
    """
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=processes.device, weights_only=True)
        checkpoint["sums"] = checkpoint["sums"].cpu()
        state.load_state_dict(checkpoint, processes)
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--resume: {CHECKPOINT} is not what a run of this model wrote: {first_line(error)}") from error
