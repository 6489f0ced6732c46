"""The training loop: epochs of steps, each epoch evaluated and saved, and the test at the end."""

import math
from collections.abc import Callable, Iterator, Sized
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import RunError
from cifarblocks.training.evaluation import Scores, all_outcomes, evaluate
from cifarblocks.training.options.declared import Options
from cifarblocks.training.pictures.curves import draw_curves
from cifarblocks.training.pictures.mistakes import draw_mistakes
from cifarblocks.training.run import Run, prepare
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.report import describe_epoch, describe_run, summary
from cifarblocks.training.run_folder.scalars import ScalarLog
from cifarblocks.training.saving import check_finite, resume, save_epoch
from cifarblocks.training.stopping import after_epoch, between_steps, noted_signals


def fit(run: Run) -> Iterator[dict[str, Any]]:
    """Train epoch after epoch; yield the line of metrics.jsonl of each, once it is saved."""
    state, processes, batches = run.state, run.processes, run.batches
    network = run.network()  # in step with other processes, compiled
    with noted_signals() as stop:
        for epoch in range(len(state.history), run.schedule.epochs):
            network.train()
            name = f"epoch {epoch + 1}/{run.schedule.epochs}"
            bar = processes.progress(batches.of_epoch(epoch, state.step), name, batches.steps, state.step)
            for batch in state.timed(bar):
                # Dropout and drop path depend only on the step, so that a resumed run draws the same.
                key = ("dropout", batches.seed, epoch, state.step, processes.rank)
                torch.manual_seed(random_stream(*key).initial_seed())
                rate = run.schedule.rate(epoch * batches.steps + state.step)
                for group in state.optimizer.param_groups:
                    group["lr"] = rate * group["scale"]  # layer decay, and the share of Muon's filters

                parts = list(zip(*(tensor.tensor_split(run.accumulate) for tensor in batch), strict=True))
                for number, (images, targets) in enumerate(parts, start=1):
                    # DistributedDataParallel sums gradients over the processes once a step, with the last part.
                    waits = processes.world_size > 1 and number < len(parts)
                    with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                        with run.autocast:
                            logits = network(images)
                            loss = run.loss(images, logits, targets)  # summed over the images
                        # DistributedDataParallel averages over the processes: together the mean over the images of the
                        # global batch.
                        (loss * processes.world_size / batches.batch_size).backward()
                    state.count(loss, logits, targets)

                if run.clip:
                    nn.utils.clip_grad_norm_(network.parameters(), run.clip)
                with run.autocast:  # for Muon's matrix products
                    state.optimizer.step()
                state.optimizer.zero_grad()
                if state.average is not None:
                    state.average.update_parameters(state.model)
                state.step += 1
                between_steps(run, stop)  # a checkpoint if one is due, the end if a signal came
            check_finite(run)
            state.end_epoch(measure(run, epoch))
            save_epoch(run)
            yield state.history[-1]
            after_epoch(run, stop)


def measure(run: Run, epoch: int) -> dict[str, Any]:
    """Return the line of metrics.jsonl of an epoch: training scores and validation scores."""
    state, processes, trained = run.state, run.processes, run.state.elapsed()
    loss, top1, images = processes.sum(state.sums.clone()).tolist()
    line = {"epoch": epoch + 1, "train_loss": loss / images, "train_top1": 100 * top1 / images}
    for prefix, model in {"": state.model, "average_": state.average and state.average.module}.items():
        if model is not None:
            processes.share_buffers(model)
            scores = score(run, model, run.batches.validation) if len(run.batches.validation) else None
            for key in ("loss", "top1", "top5"):
                line[f"{prefix}validation_{key}"] = scores and getattr(scores, key)
    return {
        **line,
        "learning_rate": run.schedule.rate((epoch + 1) * run.batches.steps - 1),
        "images_per_second": round(images / trained, 1),
        "waiting_share": round(state.waited / trained, 4),
        "seconds": round(state.elapsed(), 3),
    }


def score(run: Run, model: nn.Module, images: Sized, outcomes: list[Tensor] | None = None) -> Scores:
    """Score a model, or its last layer with --freeze, on images of the run.

    Raises:
        RunError: If the loss is not finite, which training need not have noticed.
    """
    scores = evaluate(run.trained(model), run.batches.of_images(images), run.processes, run.autocast, outcomes)
    if not math.isfinite(scores.loss):
        raise RunError(
            f"the loss on validation or test images is {scores.loss}; try a smaller --lr than {run.schedule.lr:g}; "
            "files written before are complete"
        )
    return scores


def finish(run: Run) -> dict[str, Any]:
    """Score the last weights on the test images, once, and write the summary and the pictures."""
    state, processes, images = run.state, run.processes, run.batches.test
    outcomes: list[Tensor] = []
    scores = score(run, state.model, images, outcomes)
    average = None if state.average is None else score(run, state.average.module, images)
    table = all_outcomes(outcomes, len(images), processes)
    result = summary(run.record, state.model, len(run.batches.training), state.history, scores, average)
    processes.first_decides(lambda: write_results(run, result, table))
    processes.print(f"test {scores.accuracies()} on {scores.images:,} images, last epoch")
    if average is not None:
        processes.print(f"test {average.accuracies()} with the averaged weights")
    processes.print("wrote", *sorted(run.folder.iterdir()), sep="\n  ")
    return result


def write_results(run: Run, result: dict[str, Any], outcomes: Tensor) -> None:
    """Draw the curves and the mistakes and, last, write the summary, which marks the run as finished."""
    title = f"{result['model']} on {run.data.name}"
    draw_curves(run.folder / "curves.png", title, run.state.history, result["test_top1"])
    draw_mistakes(run.folder / "mistakes.png", title, run.data.test, outcomes, run.data.classes)
    runs.write_summary(run.folder, result)


def train(
    options: Options, processes: Processes, prepared: Callable[[Options, Processes], Run] = prepare
) -> dict[str, Any]:
    """Train a model, test it once, and write the results.

    Args:
        options: The configuration.
        processes: Processes of the run.
        prepared: Function from both to the parts of the run.

    Returns:
        Content of summary.json; empty with --no-test.
    """
    run = prepared(options, processes)
    with run.opened():
        result = processes.first_decides(lambda: runs.read_summary(run.folder))
        if result is not None:
            processes.print(f"run {run.folder} is finished; its result is in {run.folder / runs.SUMMARY}")
            return result
        resume(run)
        log = ScalarLog(run.folder, len(run.state.history)) if options.tensorboard and processes.first else None
        processes.print(describe_run(run.options, run.data, run.state.model, len(run.batches.training), processes))
        for line in fit(run):
            processes.print(describe_epoch(line, run.schedule.epochs))
            if log is not None:
                log.write(line)
        return {} if options.no_test else finish(run)
