"""The folder of a run: its configuration, metrics and result."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from reprlib import repr as shortened
from types import NoneType
from typing import Any

from cifarblocks.checkpoints.files import reading
from cifarblocks.training.atomic import remove_leftovers, write_atomically
from cifarblocks.training.errors import UserError, refusing
from cifarblocks.training.run_folder.checkpoints import read_checkpoint
from cifarblocks.training.run_folder.locks import LOCK_TIMEOUT, InUseError, locked, run_lock
from cifarblocks.training.run_folder.same import check_same, decisive

CONFIGURATION, METRICS, SUMMARY = "configuration.json", "metrics.jsonl", "summary.json"
WEIGHTS = ("last.safetensors", "best.safetensors", "average.safetensors")
DIGEST = "sha256"  # of everything else in a summary

# Shapes of a run's files: for each key, the types of its value, or the shape of its table.
NUMBER, OPTIONAL = (int, float), (int, float, NoneType)
ABSENT = type(...)  # of the value under a key that may be missing
Shape = Mapping[str, Any]
CONFIGURATION_SHAPE: Shape = {"options": {}, "data": {"fingerprint": (str,), "classes": (list,)}}
LINE_SHAPE: Shape = {
    "epoch": (int,),
    **dict.fromkeys(("train_loss", "train_top1", "images_per_second", "seconds"), NUMBER),
    **dict.fromkeys(("validation_loss", "validation_top1"), OPTIONAL),
}
SUMMARY_SHAPE: Shape = {
    **dict.fromkeys(("model", "data"), (str,)),
    **dict.fromkeys(("parameters", "multiply_adds", "epochs", "training_images"), (int,)),
    **dict.fromkeys(("test_top1", "seconds"), NUMBER),
    "validation_top1": OPTIONAL,
    "versions": {"torch": (str,)},
    "configuration": {"machine": {"cpu": (str,), "threads": (int,), "gpu": (str, ABSENT)}},
}


def make_run_folder(output: Path, model: str, name: str | None, *, resume: bool = False) -> Path:
    """Make the folder of a new run, or find that of a run to continue: OUTPUT/MODEL/NAME.

    Args:
        output: The folder of all runs.
        model: Name of the model.
        name: The name of the run; None for the date and time.
        resume: Go on with the run if it is there.

    Raises:
        UserError: If the run exists and `resume` is false, or the folder cannot be made.
    """
    parent = output / model
    try:
        if not name:
            return _new_folder(parent)
        (parent / name).mkdir(parents=True, exist_ok=resume)
    except FileExistsError as error:
        if not name or Path(error.filename) != parent / name:
            raise UserError(f"--output {output}: {error.filename}: {error.strerror}") from error
        raise UserError(
            f"--name {name}: run {error.filename} already exists; give another name, or continue it with --resume"
        ) from None
    except OSError as error:
        raise UserError(f"--output {output}: {error.filename}: {error.strerror}") from error
    return parent / name


@contextmanager
def open_run(folder: Path, configuration: dict[str, Any]) -> Iterator[None]:
    """Keep other processes out of a run's folder, and write the configuration, or check it.

    Args:
        folder: The folder of the run.
        configuration: Configuration of the run; "options" and "data" decide its result.

    Raises:
        InUseError: If another process trains the run.
        UserError: If the run was begun with other options or data, or the folder cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(run_lock(folder), timeout=LOCK_TIMEOUT))
            remove_leftovers(folder)
            if (folder / CONFIGURATION).exists():
                _check_same_run(folder, configuration)
            else:
                write_json(folder / CONFIGURATION, configuration)
        except InUseError:
            raise InUseError(
                f"run {folder} is being trained by another process; wait for it, or give another --name"
            ) from None
        except OSError as error:
            raise UserError(f"--output {folder.parents[1]}: {error.filename}: {error.strerror}") from error
        yield


def _check_same_run(folder: Path, configuration: dict[str, Any]) -> None:
    """Refuse to continue a run that was begun with other options or other images.

    A damaged configuration is written again if the checkpoint is of the same run.
    """
    path, now = folder / CONFIGURATION, decisive(configuration)
    try:
        begun = read_json(path, CONFIGURATION_SHAPE, "read as the configuration of a run")
    except UserError as error:
        if "run" not in (read_checkpoint(folder, now) or {}):
            raise UserError(f"--resume: {error}; if these are the options of the run, remove that file") from error
        print(f"{error}; the checkpoint is of the same run, so the file is written again", flush=True)
        write_json(path, configuration)
    else:
        check_same(f"run {folder} was begun", decisive(begun), now)


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
    """Return True if the run has ended; its summary is written last."""
    return (folder / SUMMARY).exists()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path, shape: Shape | None = None, done: str = "read as what a run wrote") -> dict[str, Any]:
    """Read a JSON file that a run wrote.

    Args:
        path: The file.
        shape: Keys and types that the file must have.
        done: Verb phrase of the error message "cannot be ...".

    Raises:
        UserError: If it cannot be read, or is something else.
    """
    with refusing(), reading(path, done):
        content = json.loads(path.read_text(encoding="utf-8"))
        check_shape(content, shape or {})
        return content


def check_shape(content: Any, shape: Shape) -> None:
    """Refuse content that lacks a key of the shape, or has a value of another type or a number not from 0 to 1e300.

    Raises:
        ValueError: Naming the first.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected a table, got {shortened(content)}")
    for key, kinds in shape.items():
        value = content.get(key, ...)
        if value is ... and ABSENT not in kinds:
            raise ValueError(f"it lacks {key!r}")
        if isinstance(kinds, Mapping):
            check_shape(value, kinds)
        elif type(value) not in kinds or (type(value) in NUMBER and not 0 <= value < 1e300):
            raise ValueError(f"{key!r} is {shortened(value)}")


def write_summary(folder: Path, content: dict[str, Any]) -> None:
    """Write the result of a run with a digest; the file marks the run as finished."""
    write_json(folder / SUMMARY, {**content, DIGEST: _digest(content)})


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the result of a run; None while it is not finished.

    Raises:
        UserError: If it cannot be read, or has changed since the run wrote it.
    """
    path, done = folder / SUMMARY, "read as the result of a run (remove it, and --resume writes it again)"
    if not path.exists():
        return None
    with refusing(), reading(path, done):
        content = json.loads(path.read_text(encoding="utf-8"))
        check_shape(content, SUMMARY_SHAPE)
        older = DIGEST not in content and list(content)[-1] == "configuration"  # from before there were digests
        if not older and content.pop(DIGEST, None) != _digest(content):
            raise ValueError("its digest does not match: a value has changed since the run wrote it")
        return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs that a run has recorded so far.

    Raises:
        UserError: If the file was not written by a run.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    with refusing(), reading(path, "read as the metrics of a run"):
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        check_history(history)
        return history


def check_history(history: list[Any]) -> None:
    """Refuse content that is not one line of metrics for each epoch.

    Raises:
        ValueError: Naming the first that is none.
    """
    for number, line in enumerate(history, start=1):
        check_shape(line, LINE_SHAPE)
        if line["epoch"] != number:
            raise ValueError(f"epoch {number} has the number {line['epoch']}")
        for key in ("validation_loss", "validation_top1"):
            if (line[key] is None) != (history[0][key] is None):
                raise ValueError(f"{key!r} is {line[key]} in epoch {number}, unlike in epoch 1")


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl, a line an epoch, atomically."""
    write_atomically(folder / METRICS, "".join(json.dumps(line) + "\n" for line in history).encode())
