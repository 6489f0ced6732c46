"""Saving of a run: weights and metrics each epoch, and checkpoints."""

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from types import NoneType
from typing import Any

from torch import Tensor

from cifarblocks.checkpoints.files import first_line
from cifarblocks.training.errors import UserError
from cifarblocks.training.run import Run
from cifarblocks.training.run_folder.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from cifarblocks.training.run_folder.folder import Shape, check_history, check_shape, write_metrics
from cifarblocks.training.run_folder.same import decisive
from cifarblocks.training.run_folder.weights import save_weights

SHAPE: Shape = {  # of a checkpoint
    **dict.fromkeys(("model", "average"), (dict, OrderedDict, NoneType)),
    "optimizer": {"state": (dict,), "param_groups": (list,)},
    "history": (list,),
    "step": (int,),
    "sums": (Tensor,),
    **dict.fromkeys(("seconds", "waited"), (float,)),
}


def resume(run: Run) -> None:
    """Go on from the last checkpoint, if there is one, and write its epochs to metrics.jsonl.

    Raises:
        UserError: If every checkpoint is damaged, or it is of another model or run, or is inconsistent.
    """
    processes, state = run.processes, run.state
    checkpoint = processes.first_decides(lambda: read_checkpoint(run.folder, decisive(run.record)))
    if checkpoint is None:
        return
    try:
        check_progress(checkpoint, run.schedule.epochs, run.batches.steps)
        state.load_state_dict(checkpoint, processes)
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        path = run.folder / CHECKPOINT
        raise UserError(f"--resume: {path} was not written by a run of this model: {first_line(error)}") from error
    processes.first_decides(lambda: write_metrics(run.folder, state.history))
    step = f", step {state.step}" if state.step else ""
    processes.print(f"resuming run {run.folder} after epoch {len(state.history)}{step}")


def check_progress(checkpoint: dict[str, Any], epochs: int, steps: int) -> None:
    """Refuse a checkpoint whose step or epoch is out of the range of the run.

    Raises:
        ValueError: If it lacks something, or its parts do not fit together.
    """
    check_shape(checkpoint, SHAPE)
    history, step = checkpoint["history"], checkpoint["step"]
    check_history(history)
    most = steps if len(history) < epochs else 0  # the step after which an epoch is scored is still of that epoch
    if step > most or len(history) > epochs:
        raise ValueError(f"it is of step {step!r} after epoch {len(history)}, of {epochs} epochs of {steps} steps")


def check_finite(run: Run) -> None:
    """Raise RunError if the loss of this epoch, over all processes, or a weight is not finite."""
    loss, _, images = run.processes.sum(run.state.sums.clone()).tolist()
    run.state.check_finite(loss / max(images, 1), run.schedule.lr)


def save_checkpoint(run: Run) -> None:
    """Write a checkpoint of this step."""
    check_finite(run)
    content = checkpoint_content(run)
    run.processes.first_decides(lambda: write_checkpoint(run.folder, content))


def save_epoch(run: Run) -> None:
    """Write the weights, the metrics and, last, the checkpoint."""
    content = checkpoint_content(run)
    run.processes.first_decides(partial(_write_epoch, run, content))


def checkpoint_content(run: Run) -> dict[str, Any]:
    """Return the content of a checkpoint, with the identity of its run; every process must call it."""
    return {"run": decisive(run.record), **run.state.state_dict(run.processes)}


def _write_epoch(run: Run, content: dict[str, Any]) -> None:
    state, card = run.state, replace(run.card, epoch=len(run.state.history))
    *before, line = state.history
    best = line["validation_top1"] is None or all(line["validation_top1"] > old["validation_top1"] for old in before)
    for name in ("last", "best") if best else ("last",):
        save_weights(run.folder / f"{name}.safetensors", state.model.state_dict(), card)
    if state.average is not None:
        save_weights(run.folder / "average.safetensors", state.average.module.state_dict(), card)
    write_metrics(run.folder, state.history)
    write_checkpoint(run.folder, content)
