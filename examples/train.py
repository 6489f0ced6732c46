"""Train a classifier on small images, with one process or many.

    python examples/train.py                                        # the digits: about 2 minutes on 2 CPU cores
    python examples/train.py --data cifar10 --epochs 30             # downloads CIFAR-10
    python examples/train.py --data folder:PATH --model resnet_18   # PATH/train/<class>/*, PATH/test/<class>/*
    torchrun --nproc_per_node=4 examples/train.py --data cifar100   # 4 GPUs, or 4 processes on CPU

It prints a line an epoch and, at the end, the test accuracy of the last epoch's weights and the files it wrote.
With --name and --resume the same command can be repeated until it is done.
"""

import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from training import runs
from training.arguments import parse_training_arguments
from training.batches import (
    Augmentation,
    Batch,
    Normalisation,
    evaluation_batches,
    random_stream,
    steps_per_epoch,
    training_batches,
)
from training.curves import draw_curves
from training.datasets import hold_out, load_data, share_of
from training.errors import RunError, UserError
from training.evaluation import evaluate
from training.optimisation import build_optimizer, learning_rate_at, peak_learning_rate, set_learning_rate
from training.processes import Processes, is_first, joined_processes
from training.records import configuration, describe_epoch, describe_run, summary
from training.setup import build_model, check_shares, resolve
from training.weights import Card, save_weights


def train_epoch(
    network: nn.Module,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    first_step: int,
    learning_rate: Callable[[int], float],
    autocast: torch.autocast,
    options: Namespace,
    processes: Processes,
) -> tuple[float, float]:
    """Take a step for each batch: the mean loss, and top-1 in percent, over the images of all processes."""
    network.train()
    sums = torch.zeros(3, dtype=torch.float64, device=processes.device)  # loss, top-1, images
    for step, (images, labels) in enumerate(batches, start=first_step):
        set_learning_rate(optimizer, learning_rate(step))
        with autocast:
            logits = network(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="sum")
        # DistributedDataParallel takes the mean over processes: so it is the mean over the images of the global batch.
        (loss * processes.world_size / options.batch_size).backward()
        if options.clip:
            nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        hits = (logits.argmax(1) == labels).sum()
        sums += torch.stack([loss.detach(), hits, torch.tensor(len(labels), device=hits.device)])
    loss_sum, top1, images_seen = processes.sum(sums).tolist()
    return loss_sum / images_seen, 100 * top1 / images_seen


def train(options: Namespace, processes: Processes) -> None:
    """Train a model for some epochs, test it once, and write everything down."""
    device, share = processes.device, (processes.rank, processes.world_size)
    data = processes.one_at_a_time(lambda: load_data(options.data, options.data_dir, options.image_size))
    resolve(options, data, device)
    training, validation = (data.train, None) if options.final else hold_out(data.train, random_stream("hold out"))
    training = share_of(training, options.share, random_stream("share"))
    record = configuration(options, data, processes)

    dtype = torch.float64 if options.precision == "float64" else torch.float32
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")
    torch.manual_seed(options.seed)
    model, arguments = build_model(options, data)
    check_shares(options, len(training), len(validation or ()), model, processes.world_size)
    model = model.to(device, dtype).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(options.optimizer, model, options.weight_decay)

    folder = processes.first_decides(lambda: runs.open_run(options, record))
    if processes.first_decides(lambda: runs.is_finished(folder)):
        processes.print(f"run {folder} is finished; its result is in {folder / runs.SUMMARY}")
        return
    history: list[dict[str, Any]] = []
    checkpoint = processes.first_decides(lambda: runs.read_checkpoint(folder))
    if checkpoint is not None:
        history = runs.restore(checkpoint, model, optimizer, device)
        processes.print(f"going on with run {folder} after epoch {len(history)}")

    training, test = training.to(device), data.test.to(device)
    validation = None if validation is None else validation.to(device)
    mean, std = data.mean_and_std
    normalise = Normalisation(mean, std, device, dtype)
    augmentation = Augmentation(options.mirror, options.shift, options.erasing)
    steps = steps_per_epoch(len(training), options.batch_size)
    learning_rate = partial(
        learning_rate_at,
        total_steps=options.epochs * steps,
        warmup_steps=round(options.warmup_epochs * steps),
        peak=peak_learning_rate(options.lr, options.batch_size),
    )
    processes.print(describe_run(options, data, model, len(training), processes))
    network = DistributedDataParallel(model) if processes.world_size > 1 else model

    for epoch in range(len(history), options.epochs):
        began = time.perf_counter()
        # What dropout and drop path draw depends on the epoch, not on where a run began.
        torch.manual_seed(random_stream("dropout", options.seed, epoch, processes.rank).initial_seed())
        batches = training_batches(training, normalise, augmentation, options.batch_size, options.seed, epoch, *share)
        bar = processes.progress(batches, f"epoch {epoch + 1}/{options.epochs}", steps)
        loss, top1 = train_epoch(network, bar, optimizer, epoch * steps, learning_rate, autocast, options, processes)
        seconds = time.perf_counter() - began
        if not math.isfinite(loss):
            raise RunError(f"the loss is {loss} in epoch {epoch + 1}; try a smaller --lr than {options.lr:g}")
        processes.share_buffers(model)
        scores = None
        if validation is not None:
            scores = evaluate(model, evaluation_batches(validation, normalise, *share), processes, autocast)
        best = scores is None or all(scores.top1 > line["validation_top1"] for line in history)
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": loss,
                "train_top1": top1,
                "validation_loss": scores and scores.loss,
                "validation_top1": scores and scores.top1,
                "validation_top5": scores and scores.top5,
                "learning_rate": learning_rate((epoch + 1) * steps - 1),
                "images_per_second": round(steps * options.batch_size / seconds, 1),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        processes.print(describe_epoch(history[-1], options.epochs))
        card = Card(
            model=options.model,
            arguments=arguments,
            classes=data.classes,
            image_size=data.image_size,
            mean=mean,
            std=std,
            precision=options.precision,
            data=data.name,
            epoch=epoch + 1,
        )
        processes.first_decides(partial(save_epoch, folder, model, optimizer, history, card, best))

    if options.no_test:
        return
    scores = evaluate(model, evaluation_batches(test, normalise, *share), processes, autocast)
    if processes.first:
        draw_curves(folder / "curves.png", f"{options.model} on {data.name}", history, scores.top1)
        runs.write_json(folder / runs.SUMMARY, summary(record, model, len(training), history, scores))
        print(f"test top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images:,} images, last epoch")
        print("wrote", *sorted(folder.iterdir()), sep="\n  ")


def save_epoch(
    folder: Path, model: nn.Module, optimizer: Optimizer, history: list[dict[str, Any]], card: Card, best: bool
) -> None:
    """Write the weights, the metrics and, last, the checkpoint to go on from."""
    for name in ("last", "best") if best else ("last",):
        save_weights(folder / f"{name}.safetensors", model, card)
    runs.write_metrics(folder, history)
    runs.save_checkpoint(folder, model, optimizer, history)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    options = parse_training_arguments(arguments, __doc__)
    try:
        with joined_processes() as processes:
            train(options, processes)
    except UserError as error:
        status, sentence = 2, str(error)
    except RunError as error:
        status, sentence = 1, str(error)
    except OSError as error:
        status, sentence = 1, f"{error.filename or 'output'}: {error.strerror}; what was written before is whole"
    except KeyboardInterrupt:
        status, sentence = 130, "interrupted; with --name and --resume it goes on from the last whole epoch"
    else:
        return 0
    if is_first():
        print(f"train.py: error: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
