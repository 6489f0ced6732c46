"""The folder of a run: its configuration, and what it leaves for people."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cifarblocks.training.atomic import remove_leftovers, write_atomically
from cifarblocks.training.errors import UserError, first_line
from cifarblocks.training.run_folder.locks import LOCK_TIMEOUT, InUseError, locked, run_lock

CONFIGURATION, METRICS, SUMMARY = "configuration.json", "metrics.jsonl", "summary.json"
WEIGHTS = ("last.safetensors", "best.safetensors", "average.safetensors")


def make_run_folder(output: Path, model: str, name: str | None, *, resume: bool = False) -> Path:
    """Make the folder of a new run, or find that of a run to go on with: OUTPUT/MODEL/NAME.

    Args:
        output: The folder of all runs.
        model: What is trained.
        name: The name of the run; None for the date and time.
        resume: Go on with the run if it is there.

    Raises:
        UserError: If the run is there and not to be resumed, or the folder cannot be made.
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
            f"--name {name}: run {error.filename} is there already; choose another name, or go on with it by --resume"
        ) from None
    except OSError as error:
        raise UserError(f"--output {output}: {error.filename}: {error.strerror}") from error
    return parent / name


@contextmanager
def open_run(folder: Path, configuration: dict[str, Any]) -> Iterator[None]:
    """Keep other processes out of a run's folder, and write what the run is made of, or check it.

    Args:
        folder: The folder of the run.
        configuration: What the run is made of; under "options" and "data" what decides its result.

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
    """Refuse to go on with a run that was begun with other options, or other images wherever they lie."""
    path = folder / CONFIGURATION
    try:
        begun = decisive(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume: {path} is not what a run wrote: {first_line(error)}") from error
    check_same(f"run {folder} was begun", begun, decisive(configuration))


def decisive(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the result of a run, in plain values that JSON and a checkpoint can hold."""
    data = configuration["data"]
    chosen = {**configuration["options"], "data": data["fingerprint"], "classes": data["classes"]}
    return json.loads(json.dumps(chosen))


def check_same(what: str, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run, or a checkpoint, of something else; older ones do not say what is newer than they.

    Raises:
        UserError: naming the first value that differs.
    """
    for key, value in now.items():
        if key in begun and not equal(begun[key], value):
            raise UserError(f"--resume: {what} with {key} {begun[key]!r}, and now it is {value!r}")


def equal(one: Any, other: Any) -> bool:
    """Return True for equal values; numbers may differ by rounding, as means of pixels did between processors.

    >>> equal([0.1 + 0.2, "a"], [0.3, "a"]), equal([0.3], [0.3, 0.3]), equal(1, 2)
    (True, False, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that a run wrote.

    Raises:
        UserError: if it is none.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not what a run wrote: {first_line(error)}") from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs that a run has written down so far.

    Raises:
        UserError: if that is not what a run writes.
    """
    path = folder / METRICS
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise UserError(f"{path} is not what a run wrote: {first_line(error)}") from error


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl, a line an epoch, atomically."""
    write_atomically(folder / METRICS, "".join(json.dumps(line) + "\n" for line in history).encode())
