"""When a run is written down: at the end of each epoch, every so many steps, and when it is asked to stop."""

import signal
from functools import partial
from typing import Any

from cifarblocks.checkpoints.own import Card
from cifarblocks.training.checkpoints import write_checkpoint
from cifarblocks.training.errors import StoppedError
from cifarblocks.training.run import Run
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.weights import save_weights
from cifarblocks.training.stopping import StopRequest


def between_steps(run: Run, stop: StopRequest) -> None:
    """Write a checkpoint if one is due, and end the run if a process was asked to stop or its loss is not finite.

    All processes look at the same time: after every step on CPUs, after every 20th on GPUs, which would be waited for.

    Raises:
        StoppedError: after a signal.
        RunError: if the loss, or a weight that would be saved, is not finite.
    """
    options, state = run.options, run.state
    number = 0
    if run.processes.device.type == "cpu" or state.step % 20 == 0:
        number, lost = run.processes.largest([stop.number, not state.sums[0].isfinite()])
        if lost:
            check_finite(run)
    if number or (options.checkpoint_steps and state.step % options.checkpoint_steps == 0):
        save_checkpoint(run)
    if number:
        name, epoch = signal.Signals(number).name, len(state.history) + 1
        raise StoppedError(number, f"{name} in epoch {epoch} after step {state.step}; {how_to_go_on(run)}")


def after_epoch(run: Run, stop: StopRequest) -> None:
    """End the run, which has just been saved, if a process was asked to stop since its last step.

    Raises:
        StoppedError: after a signal.
    """
    (number,) = run.processes.largest([stop.number])
    if number:
        name, epoch = signal.Signals(number).name, len(run.state.history)
        raise StoppedError(number, f"{name} after epoch {epoch}; {how_to_go_on(run)}")


def how_to_go_on(run: Run) -> str:
    """What to type after a stop."""
    return f"--name {run.folder.name} --resume goes on from there"


def check_finite(run: Run) -> None:
    """Raise RunError if the loss of this epoch, over all processes, or a weight is not finite."""
    loss, _, images = run.processes.sum(run.state.sums.clone()).tolist()
    run.state.check_finite(loss / max(images, 1), run.options.lr)


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
    return {"run": runs.decisive(run.record), **run.state.state_dict(run.processes)}


def _write_epoch(run: Run, content: dict[str, Any]) -> None:
    state, card = run.state, weights_card(run)
    *before, line = state.history
    best = line["validation_top1"] is None or all(line["validation_top1"] > old["validation_top1"] for old in before)
    for name in ("last", "best") if best else ("last",):
        save_weights(run.folder / f"{name}.safetensors", state.model, card)
    if state.average is not None:
        save_weights(run.folder / "average.safetensors", state.average.module, card)
    runs.write_metrics(run.folder, state.history)
    write_checkpoint(run.folder, content)


def weights_card(run: Run) -> Card:
    """What the weights files of this epoch say of themselves."""
    return Card(
        model=run.options.model,
        arguments=run.arguments,
        classes=run.data.classes,
        image_size=run.data.image_size,
        mean=run.options.mean,
        std=run.options.std,
        precision=run.options.precision,
        data=run.data.name,
        epoch=len(run.state.history),
    )
