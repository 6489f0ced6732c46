"""The training loop: epochs of steps, each epoch evaluated and saved, and the test at the end."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cifarblocks.training.data.batches import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.evaluation import all_outcomes, evaluate
from cifarblocks.training.models import build_model
from cifarblocks.training.optim.groups import set_learning_rate
from cifarblocks.training.pictures.curves import draw_curves
from cifarblocks.training.pictures.mistakes import draw_mistakes
from cifarblocks.training.run import Build, Run, prepare
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.report import describe_epoch, describe_run, summary
from cifarblocks.training.run_folder.scalars import ScalarLog
from cifarblocks.training.saving import after_epoch, between_steps, check_finite, save_epoch
from cifarblocks.training.stopping import StopRequest, noted_signals


def train_epoch(run: Run, network: nn.Module, epoch: int, stop: StopRequest) -> None:
    """Take the steps of an epoch that are not taken yet; the run's state sums up what they come to."""
    options, state, processes = run.options, run.state, run.processes
    network.train()
    bar = processes.progress(run.batches(epoch), f"epoch {epoch + 1}/{options.epochs}", run.steps, state.step)
    for batch in state.timed(bar):
        # What dropout and drop path draw depends on the step, not on where a run began.
        torch.manual_seed(random_stream("dropout", options.seed, epoch, state.step, processes.rank).initial_seed())
        set_learning_rate(state.optimizer, run.learning_rate(epoch * run.steps + state.step))
        parts = zip(*(tensor.tensor_split(options.accumulate) for tensor in batch), strict=True)
        for number, (images, targets) in enumerate(parts, start=1):
            # DistributedDataParallel sums gradients over the processes once a step, with the last part.
            waits = processes.world_size > 1 and number < options.accumulate
            with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with run.autocast:
                    logits = network(images)
                    loss = F.cross_entropy(logits, targets, label_smoothing=options.label_smoothing, reduction="sum")
                # It takes the mean over processes: so it is the mean over the images of the global batch.
                (loss * processes.world_size / options.batch_size).backward()
            state.count(loss, logits, targets)
        if options.clip:
            nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        with run.autocast:  # for the products of matrices of Muon
            state.optimizer.step()
        state.optimizer.zero_grad()
        if state.average is not None:
            state.average.update_parameters(state.model)
        state.step += 1
        between_steps(run, stop)


def fit(run: Run) -> Iterator[dict[str, Any]]:
    """Train epoch after epoch, each of them evaluated and saved: the line of metrics.jsonl of each."""
    state, network = run.state, run.network()
    with noted_signals() as stop:
        for epoch in range(len(state.history), run.options.epochs):
            train_epoch(run, network, epoch, stop)
            check_finite(run)
            state.end_epoch(measure(run, epoch))
            save_epoch(run)
            yield state.history[-1]
            after_epoch(run, stop)


def measure(run: Run, epoch: int) -> dict[str, Any]:
    """What there is to say of an epoch: how training went, and the scores on the validation images."""
    state, processes, trained = run.state, run.processes, run.state.elapsed()
    loss, top1, images = processes.sum(state.sums.clone()).tolist()
    line = {"epoch": epoch + 1, "train_loss": loss / images, "train_top1": 100 * top1 / images}
    for prefix, model in {"": state.model, "average_": state.average}.items():
        if model is not None:
            processes.share_buffers(model)
            scores = None
            if run.validation is not None:
                scores = evaluate(model, run.evaluation_batches(run.validation), processes, run.autocast)
            for key in ("loss", "top1", "top5"):
                line[f"{prefix}validation_{key}"] = scores and getattr(scores, key)
    return {
        **line,
        "learning_rate": run.learning_rate((epoch + 1) * run.steps - 1),
        "images_per_second": round(images / trained, 1),
        "waiting_share": round(state.waited / trained, 4),
        "seconds": round(state.elapsed(), 3),
    }


def finish(run: Run) -> dict[str, Any]:
    """Score the last weights on the test images, once, and write the summary and the pictures."""
    state, images = run.state, run.data.test
    outcomes: list[torch.Tensor] = []
    batches = run.evaluation_batches(images.to(run.processes.device))
    scores = evaluate(state.model, batches, run.processes, run.autocast, outcomes)
    average = None
    if state.average is not None:
        batches = run.evaluation_batches(images.to(run.processes.device))
        average = evaluate(state.average, batches, run.processes, run.autocast)
    table = all_outcomes(outcomes, len(images), run.processes)
    result = summary(run.record, state.model, len(run.training), state.history, scores, average)
    run.processes.first_decides(lambda: write_results(run, result, table))
    run.processes.print(
        f"test top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images:,} images, last epoch"
    )
    if average is not None:
        run.processes.print(f"test top-1 {average.top1:.2f} %, top-5 {average.top5:.2f} % with the averaged weights")
    run.processes.print("wrote", *sorted(run.folder.iterdir()), sep="\n  ")
    return result


def write_results(run: Run, result: dict[str, Any], outcomes: torch.Tensor) -> None:
    """Draw the curves and the mistakes and, last, write the summary, which says that the run is finished."""
    title = f"{run.options.model} on {run.data.name}"
    draw_curves(run.folder / "curves.png", title, run.state.history, result["test_top1"])
    draw_mistakes(run.folder / "mistakes.png", title, run.data.test, outcomes, run.data.classes)
    runs.write_json(run.folder / runs.SUMMARY, result)


@runs.releasing_locks()
def train(options: Namespace, processes: Processes, build: Build = build_model) -> dict[str, Any]:
    """Train a model, test it once, and write everything down.

    Args:
        options: as `parse_training_arguments` gives them.
        processes: those that train together.
        build: called as build(options, data) for the model with its first weights, and its arguments.

    Returns:
        What summary.json says; nothing yet with --no-test.
    """
    run = prepare(options, processes, build)
    if processes.first_decides(lambda: runs.is_finished(run.folder)):
        processes.print(f"run {run.folder} is finished; its result is in {run.folder / runs.SUMMARY}")
        return processes.first_decides(lambda: runs.read_json(run.folder / runs.SUMMARY))
    run.resume()
    log = ScalarLog(run.folder, len(run.state.history)) if options.tensorboard and processes.first else None
    processes.print(describe_run(options, run.data, run.state.model, len(run.training), processes))
    for line in fit(run):
        processes.print(describe_epoch(line, options.epochs))
        if log is not None:
            log.write(line)
    return {} if options.no_test else finish(run)
