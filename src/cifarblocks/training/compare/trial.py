"""A trial of a study: training with its values, watched and pruned."""

import math
import time
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import Trial, TrialState

from cifarblocks.training.compare.launch import Process, command_line, parse
from cifarblocks.training.compare.space import describe_values, readable
from cifarblocks.training.compare.study import tell
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.checkpoints import CHECKPOINT, DAMAGED, PREVIOUS
from cifarblocks.training.run_folder.folder import CONFIGURATION, METRICS, WEIGHTS, read_json, read_metrics
from cifarblocks.training.run_folder.locks import is_locked, run_lock

WHOLE, IMPATIENT, PRUNED = "to the end", "no better for some epochs", "worse than the median"


def try_values(study: Study, trial: Trial, folder: Path, arguments: list[str], patience: int) -> str:
    """Train with the values of a trial, report the result to the study, and return it in words.

    Raises:
        UserError: if cifarblocks train refuses the command line for another reason than a combination of values.
    """
    name = trial.user_attrs["folder"]
    values = {key: readable(value) for key, value in trial.params.items()}
    trial.set_user_attr("values", values)
    places = ["--output", str(folder), "--name", name, "--resume", "--no-test"]
    command = [*arguments, *command_line(values), *places]
    try:
        options = parse(command, "refused: ")
    except UserError as error:
        tell(study, trial, folder, TrialState.PRUNED)
        return f"{describe_values(values)}: {error}"
    run = options.output / options.model / name
    process = Process(command, folder / f"{name}.log")
    try:
        why = watch(process, run, trial, patience)
    finally:
        process.stop()
    if process.status == 2:
        if is_locked(run_lock(run)):
            return f"{describe_values(values)}: left to the process that trains it already"
        raise UserError(process.last_words())
    remove_weights(run)
    losses = finite_losses(validated(run))
    state = TrialState.COMPLETE if losses and why in (WHOLE, IMPATIENT) else TrialState.PRUNED
    tell(study, trial, folder, state, min(losses) if state == TrialState.COMPLETE else None)
    result = f"validation loss {min(losses):.4f} after {len(losses)} epochs" if losses else "no validation loss"
    return f"{describe_values(values)}: {result}, {why}"


def watch(process: Process, run: Path, trial: Trial, patience: int) -> str:
    """Report each epoch to the study's pruner until the process ends or should end; return the reason."""
    reported = 0
    while True:
        status = process.status  # before the metrics are read, so that none is missed
        metrics = validated(run)
        for line in metrics[reported:]:
            trial.report(line["validation_loss"], line["epoch"])
            # A good learning rate may look bad while it is high, so the first third of the epochs prunes nothing.
            if line["epoch"] > planned_epochs(run) // 3 and trial.should_prune():
                return PRUNED
            if line["epoch"] - best_epoch(metrics[: line["epoch"]]) >= patience:
                return IMPATIENT
        reported = len(metrics)
        if status is not None:
            return WHOLE if status == 0 else process.last_words()
        time.sleep(0.1)


def validated(run: Path) -> list[dict[str, Any]]:
    """Return the epochs of a trial so far.

    Raises:
        UserError: If one of them has no validation loss, which training always writes.
    """
    metrics = read_metrics(run)
    if any(line["validation_loss"] is None for line in metrics):
        raise UserError(f"{run / METRICS} has an epoch without a validation loss; remove {run}")
    return metrics


def planned_epochs(run: Path) -> int:
    """Return the epochs that a trial trains for, which may be more than the recipe's where images are few."""
    epochs: int = read_json(run / CONFIGURATION, {"options": {"epochs": (int,)}})["options"]["epochs"]
    return epochs


def best_epoch(metrics: list[dict[str, Any]]) -> int:
    """Return the epoch of the lowest validation loss, the first of several.

    >>> best_epoch([{"epoch": 1, "validation_loss": 2.0}, {"epoch": 2, "validation_loss": 2.5}])
    1
    """
    return min(metrics, key=lambda line: line["validation_loss"])["epoch"]


def finite_losses(metrics: list[dict[str, Any]]) -> list[float]:
    """Return the validation losses that are finite."""
    return [line["validation_loss"] for line in metrics if math.isfinite(line["validation_loss"])]


def remove_weights(run: Path) -> None:
    """Remove the weights and checkpoints of a trial; metrics and configuration stay."""
    for name in (CHECKPOINT, PREVIOUS, DAMAGED, *WEIGHTS):
        (run / name).unlink(missing_ok=True)
