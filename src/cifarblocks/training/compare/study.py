"""A study of Optuna: its file, the ranges it searches, and what becomes of a trial."""

import json
import math
import time
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import Trial, TrialState

from cifarblocks.training.compare.launch import Process, Settings, command_line, parse, tidy
from cifarblocks.training.errors import UserError, first_line
from cifarblocks.training.run_folder.folder import WEIGHTS, read_metrics
from cifarblocks.training.saving import CHECKPOINT, DAMAGED, PREVIOUS

Space = dict[str, Any]  # an optuna distribution for each option
WHOLE, IMPATIENT, PRUNED = "to the end", "no better for some epochs", "worse than the median"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
SWITCHED = {"true": True, "false": False}


def read_range(text: str) -> tuple[str, BaseDistribution]:
    """Read NAME=LOW..HIGH, on a logarithmic scale from a factor of 10 on, or NAME=ONE,OTHER.

    >>> read_range("weight_decay=1e-5..1e-2")
    ('weight-decay', FloatDistribution(high=0.01, log=True, low=1e-05, step=None))
    >>> read_range("epochs=5..20")
    ('epochs', FloatDistribution(high=20.0, log=False, low=5.0, step=None))
    >>> read_range("optimizer=sgd,adamw")
    ('optimizer', CategoricalDistribution(choices=('sgd', 'adamw')))
    >>> read_range("mirror=true,false")
    ('mirror', CategoricalDistribution(choices=(True, False)))
    """
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ArgumentTypeError(f"must be NAME=LOW..HIGH or NAME=ONE,OTHER, got {text!r}")
    if ".." not in values:
        return tidy(key), CategoricalDistribution([SWITCHED.get(value, value) for value in values.split(",")])
    try:
        low, high = map(float, values.split(".."))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(f"must be NAME=LOW..HIGH, two numbers and the lower one first, got {text!r}") from None
    logarithmic = low > 0 and high >= 10 * low
    return tidy(key), FloatDistribution(low, high, log=logarithmic)


def open_study(path: Path, settings: dict[str, Any], space: Space, epochs: int) -> Study:
    """Begin a study, or go on with it; trials that were cut off are put first in its queue.

    Args:
        path: the SQLite file.
        settings: what decides its trials; those of before must be the same.
        space: what is searched.
        epochs: of a trial, at most.

    Raises:
        UserError: if it was begun with other settings, or is not a study.
    """
    # Learning rates that are good in the end look bad while they are high: a third of the epochs is waited for.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 3)
    if "?" in str(path):  # SQLite's address would end there, and another file be written
        raise UserError(f"--output and --name of a search must not contain '?', got {str(path.parent)!r}")
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name="search", load_if_exists=True, pruner=pruner
        )
    except Exception as error:
        raise UserError(f"{path} cannot be used as a study: {first_line(error)}") from error
    ranges = {f"search {key}": str(distribution) for key, distribution in space.items()}
    now = json.loads(json.dumps({**settings, **ranges}, default=str))
    begun = study.user_attrs.get("settings", now)
    for key in {**begun, **now}:
        if begun.get(key) != now.get(key):
            raise UserError(
                f"study {path.parent} was begun with {key} {begun.get(key)!r}, and now it is {now.get(key)!r}; "
                "give another --name"
            )
    study.set_user_attr("settings", now)
    for cut in study.get_trials(states=[TrialState.RUNNING]):
        study.enqueue_trial(cut.params, user_attrs={"folder": cut.user_attrs.get("folder", folder_name(cut.number))})
        study.tell(cut.number, state=TrialState.FAIL)
    return study


def folder_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:04}"


def try_values(study: Study, space: Space, folder: Path, arguments: list[str], patience: int) -> str:
    """Let the study choose values, train with them, and tell it what came out: the same in words.

    Raises:
        UserError: if cifarblocks train finds that it cannot work, but not because of how the values go together.
    """
    trial = study.ask(space)
    name = trial.user_attrs.get("folder", folder_name(trial.number))
    values = {key: readable(value) for key, value in trial.params.items()}
    trial.set_user_attr("folder", name)
    trial.set_user_attr("values", values)
    places = ["--output", str(folder), "--name", name, "--resume", "--no-test"]
    command = [*arguments, *command_line(values), *places]
    try:
        options = parse(command, "refused: ")
    except UserError as error:
        study.tell(trial, state=TrialState.PRUNED)
        return f"{describe(values)}: {error}"
    run = options.output / options.model / name
    process = Process(command, folder / f"{name}.log")
    try:
        why = watch(process, run, trial, patience)
    finally:
        process.stop()
    if process.status == 2:
        raise UserError(process.last_words())
    remove_weights(run)
    losses = finite_losses(read_metrics(run))
    state = TrialState.COMPLETE if losses and why in (WHOLE, IMPATIENT) else TrialState.PRUNED
    study.tell(trial, min(losses) if state == TrialState.COMPLETE else None, state=state)
    result = f"validation loss {min(losses):.4f} after {len(losses)} epochs" if losses else "no validation loss"
    return f"{describe(values)}: {result}, {why}"


def watch(process: Process, run: Path, trial: Trial, patience: int) -> str:
    """Report each epoch to the study's pruner until the process has ended, or ought to: why it is over."""
    reported = 0
    while True:
        status = process.status  # before the metrics are read, so that none is missed
        metrics = read_metrics(run)
        for line in metrics[reported:]:
            trial.report(line["validation_loss"], line["epoch"])
            if trial.should_prune():
                return PRUNED
            if line["epoch"] - best_epoch(metrics[: line["epoch"]]) >= patience:
                return IMPATIENT
        reported = len(metrics)
        if status is not None:
            return WHOLE if status == 0 else process.last_words()
        time.sleep(0.1)


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
    """Remove the weights and checkpoints of a trial, which nobody needs; metrics and configuration stay."""
    for name in (CHECKPOINT, PREVIOUS, DAMAGED, *WEIGHTS):
        (run / name).unlink(missing_ok=True)


def readable(value: Any) -> Any:
    """Return a number rounded to four digits.

    >>> readable(0.123456), readable(3), readable("adamw")
    (0.1235, 3, 'adamw')
    """
    return float(f"{value:.4g}") if isinstance(value, float) else value


def describe(values: Settings) -> str:
    """Return the values, human-readable.

    >>> describe({"lr": 0.1, "model-argument.drop_path": 0.2})
    'lr 0.1, drop_path 0.2'
    """
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
