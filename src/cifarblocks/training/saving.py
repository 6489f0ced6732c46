"""Saving of a run: weights and metrics each epoch, and two checkpoints to go on from.

The last checkpoint and the one before it are kept, for the day when the last one is damaged.
"""

import hashlib
import io
import struct
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError, first_line
from cifarblocks.training.run import Run
from cifarblocks.training.run_folder.folder import check_same, decisive, write_metrics
from cifarblocks.training.run_folder.weights import save_weights
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


def resume(run: Run) -> None:
    """Go on from the last checkpoint, where there is one, and make metrics.jsonl what it says.

    Raises:
        UserError: If no checkpoint is whole, or it is of another model or run.
    """
    processes, state = run.processes, run.state
    content = processes.first_decides(lambda: read_checkpoint(run.folder, decisive(run.record)))
    if content is None:
        return
    restore(content, state, processes)
    processes.first_decides(lambda: write_metrics(run.folder, state.history))
    step = f", step {state.step}" if state.step else ""
    processes.print(f"going on with run {run.folder} after epoch {len(state.history)}{step}")


def restore(content: bytes, state: State, processes: Processes) -> None:
    """Bring a state to where a checkpoint was written.

    Raises:
        UserError: If the checkpoint is of another model, or lacks something.
    """
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=processes.device, weights_only=True)
        checkpoint["sums"] = checkpoint["sums"].cpu()
        state.load_state_dict(checkpoint, processes)
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--resume: {CHECKPOINT} is not what a run of this model wrote: {first_line(error)}") from error


def check_finite(run: Run) -> None:
    """Raise RunError if the loss of this epoch, over all processes, or a weight is not finite."""
    loss, _, images = run.processes.sum(run.state.sums.clone()).tolist()
    run.state.check_finite(loss / max(images, 1), run.schedule.lr)


def save_checkpoint(run: Run) -> None:
    """Write what is needed to go on from this step."""
    check_finite(run)
    content = checkpoint_content(run)
    run.processes.first_decides(lambda: write_checkpoint(run.folder, content))


def save_epoch(run: Run) -> None:
    """Write the weights, the metrics and, last, the checkpoint to go on from."""
    content = checkpoint_content(run)
    run.processes.first_decides(partial(_write_epoch, run, content))


def checkpoint_content(run: Run) -> dict[str, Any]:
    """Return all that is needed to go on, and which run it is of; every process must call it."""
    return {"run": decisive(run.record), **run.state.state_dict(run.processes)}


def _write_epoch(run: Run, content: dict[str, Any]) -> None:
    state, card = run.state, replace(run.card, epoch=len(run.state.history))
    *before, line = state.history
    best = line["validation_top1"] is None or all(line["validation_top1"] > old["validation_top1"] for old in before)
    for name in ("last", "best") if best else ("last",):
        save_weights(run.folder / f"{name}.safetensors", state.model, card)
    if state.average is not None:
        save_weights(run.folder / "average.safetensors", state.average.module, card)
    write_metrics(run.folder, state.history)
    write_checkpoint(run.folder, content)
