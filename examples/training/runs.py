"""The folder of a run: its configuration, its checkpoint, and what it leaves for people."""

import io
import json
import time
from argparse import Namespace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from training.errors import UserError
from training.files import write_atomically

CONFIGURATION, CHECKPOINT, SUMMARY = "configuration.json", "checkpoint.pt", "summary.json"


def open_run(options: Namespace, configuration: dict[str, Any]) -> Path:
    """Make the folder of a new run, or find that of a run to go on with.

    Args:
        options: with output, model, name and resume.
        configuration: what the run is made of; under "options" and "data" what decides its result.

    Raises:
        UserError: if the run is there and not to be resumed, or was begun with other options or data.
    """
    parent, name = options.output / options.model, options.name
    folder = parent / name if name else _new_folder(parent)
    if name:
        try:
            folder.mkdir(parents=True, exist_ok=options.resume)
        except FileExistsError:
            raise UserError(
                f"--name {name}: run {folder} is there already; choose another name, or go on with it by --resume"
            ) from None
    path = folder / CONFIGURATION
    if path.exists():
        begun = json.loads(path.read_text())
        for part in ("options", "data"):
            for key, value in json.loads(json.dumps(configuration[part])).items():
                if begun[part].get(key) != value:
                    raise UserError(
                        f"--resume: run {folder} was begun with {key} {begun[part].get(key)!r}, and now it is {value!r}"
                    )
    else:
        write_json(path, configuration)
    return folder


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = parent / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"--output: no new folder could be made in {parent}")


def is_finished(folder: Path) -> bool:
    """Whether the run has ended; its summary is what it writes last."""
    return (folder / SUMMARY).exists()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl, a line an epoch, atomically."""
    write_atomically(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history).encode())


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, history: list[dict[str, Any]]) -> None:
    """Write all that is needed to go on, atomically; random numbers and learning rates depend on the epoch alone."""
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())


def read_checkpoint(folder: Path) -> bytes | None:
    """The content of the last checkpoint, or None where there is none yet."""
    path = folder / CHECKPOINT
    return path.read_bytes() if path.exists() else None


def restore(content: bytes, model: nn.Module, optimizer: Optimizer, device: torch.device) -> list[dict[str, Any]]:
    """Bring model and optimiser to where a checkpoint was written: the history of its epochs."""
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        return checkpoint["history"]
    except (RuntimeError, EOFError, UnpicklingError, KeyError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"--resume: {CHECKPOINT} is not what a run of this model wrote: {problem}") from error
