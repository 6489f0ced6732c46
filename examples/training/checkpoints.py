"""Two checkpoints of a run: the last one, and the one before it for the day when the last one is damaged."""

import io
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from training.errors import UserError, first_line
from training.files import write_atomically
from training.processes import Processes
from training.state import State

CHECKPOINT, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint_before.pt", "checkpoint_damaged.pt"


def write_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write all that is needed to go on, atomically; what was the last checkpoint is kept as the one before."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue(), previous=folder / PREVIOUS)


def read_checkpoint(folder: Path) -> bytes | None:
    """The content of the last checkpoint that is whole, or None where there is none yet.

    Raises:
        UserError: if there are checkpoints and none of them is whole.
    """
    path, before = folder / CHECKPOINT, folder / PREVIOUS
    problem = None
    if path.exists():
        content = path.read_bytes()
        problem = damage(content)
        if problem is None:
            return content
    if before.exists():
        content = before.read_bytes()
        if damage(content) is None:
            if problem is not None:
                path.replace(folder / DAMAGED)  # so that it does not take the place of the whole one
                print(f"{path} is damaged ({problem}) and is now {DAMAGED}; the one before it is used", flush=True)
            return content
    if problem is not None:
        raise UserError(f"--resume: {path} is not what a run wrote ({problem}), and there is no whole one before it")
    return None


def damage(content: bytes) -> str | None:
    """What is wrong with the bytes of a checkpoint: torch.save writes a zip file, in which each part has a checksum.

    >>> damage(b"PK and then nothing")
    'File is not a zip file'
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            part = file.testzip()
    except (zipfile.BadZipFile, EOFError, LookupError, ValueError, NotImplementedError, OSError) as error:
        return first_line(error)
    return None if part is None else f"the checksum of {part} does not fit"


def restore(content: bytes, state: State, processes: Processes) -> None:
    """Bring a state to where a checkpoint was written.

    Raises:
        UserError: if the checkpoint is of another model, or holds anything but tensors and plain values.
    """
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=processes.device, weights_only=True)
        checkpoint["sums"] = checkpoint["sums"].cpu()
        state.load_state_dict(checkpoint, processes)
    except (RuntimeError, EOFError, UnpicklingError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--resume: {CHECKPOINT} is not what a run of this model wrote: {first_line(error)}") from error
