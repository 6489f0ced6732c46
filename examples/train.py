"""Train a classifier on small images, with one process or many.

    python examples/train.py                                        # the digits: a minute on 2 CPU cores
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

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import cifarblocks
from training import runs
from training.arguments import parse_training_arguments
from training.batches import (
    Augmentation,
    Normalisation,
    evaluation_batches,
    random_stream,
    steps_per_epoch,
    training_batches,
)
from training.curves import draw_curves
from training.datasets import DataSet, hold_out, load_data
from training.errors import RunError, UserError
from training.evaluation import evaluate
from training.optimisation import (
    build_optimizer,
    learning_rate_at,
    peak_learning_rate,
    set_learning_rate,
    supports_bfloat16,
)
from training.processes import Processes, is_first, joined_processes
from training.records import configuration, summary
from training.weights import Card, save_weights


def train(options: Namespace, processes: Processes) -> None:
    """Train, evaluate, and write everything down."""
    data = processes.one_at_a_time(lambda: load_data(options.data, options.data_dir, options.image_size))
    resolve(options, data, processes)
    say = print if processes.first else lambda *_: None
    device, share = processes.device, (processes.rank, processes.world_size)

    # The images: those to train on, those to select with, those to test with once at the end.
    training, validation = (data.train, None) if options.final else hold_out(data.train, random_stream("hold out"))
    check_batch_size(options.batch_size, len(training), processes.world_size)
    training, test = training.to(device), data.test.to(device)
    validation = validation and validation.to(device)
    dtype = torch.float64 if options.precision == "float64" else torch.float32
    normalise = Normalisation(*data.mean_and_std, device, dtype)
    augmentation = Augmentation(options.mirror, options.erasing)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")

    # The model and the run's folder; where the run has begun, as it was after its last epoch.
    torch.manual_seed(options.seed)
    arguments = {**options.model_argument, "num_classes": len(data.classes), "image_size": data.image_size}
    model = build_model(options.model, arguments).to(device, dtype, memory_format=torch.channels_last)
    optimizer = build_optimizer(options.optimizer, model, options.weight_decay)
    record = configuration(options, data, processes)
    folder = processes.first_decides(
        lambda: runs.open_run(options.output, options.model, options.name, options.resume, record)
    )
    finished, content = processes.first_decides(lambda: (runs.is_finished(folder), runs.read_checkpoint(folder)))
    if finished:
        return say(f"run {folder} is finished; its result is in {folder / runs.SUMMARY}")
    history = []
    if content is not None:
        checkpoint = runs.load_checkpoint(content, device)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        history = checkpoint["history"]
        say(f"going on with run {folder} after epoch {len(history)}")
    network = DistributedDataParallel(model) if processes.world_size > 1 else model

    steps = steps_per_epoch(len(training), options.batch_size)
    warmup_steps = round(options.warmup_epochs * steps)
    peak = peak_learning_rate(options.lr, options.batch_size)
    say(
        f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{cifarblocks.count_macs(model):,} multiply-adds\n"
        f"{data.name}: {len(training):,} images to train, {len(validation or ()):,} to select, {len(test):,} to test\n"
        f"{processes.world_size} x {device.type} in {options.precision}, batches of {options.batch_size}, "
        f"learning rate {peak:g} ({options.lr:g} per 256 images)"
    )

    for epoch in range(len(history), options.epochs):
        began = time.perf_counter()
        torch.manual_seed(random_stream("dropout", options.seed, epoch, processes.rank).initial_seed())
        network.train()
        batches = training_batches(training, normalise, augmentation, options.batch_size, options.seed, epoch, *share)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, top-1
        bar = tqdm(
            batches, f"epoch {epoch + 1}/{options.epochs}", steps, leave=False, disable=None if processes.first else True
        )
        for step, (images, labels) in enumerate(bar, start=epoch * steps):
            learning_rate = learning_rate_at(step, options.epochs * steps, warmup_steps, peak)
            set_learning_rate(optimizer, learning_rate)
            with autocast:
                logits = network(images)
                loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="sum")
            # DistributedDataParallel averages over processes; this way the sum is the mean over the global batch.
            (loss * processes.world_size / options.batch_size).backward()
            if options.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            optimizer.step()
            optimizer.zero_grad()
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])
        seconds = time.perf_counter() - began

        images_seen = steps * options.batch_size
        train_loss, train_top1 = (processes.sum(sums) / images_seen).tolist()
        if not math.isfinite(train_loss):
            raise RunError(f"the loss is {train_loss} in epoch {epoch + 1}; try a smaller --lr than {options.lr:g}")
        processes.share_buffers(model)
        scores = None
        if validation is not None:
            scores = evaluate(model, evaluation_batches(validation, normalise, *share), processes, autocast)
        best = scores is None or scores.top1 > max((line["validation_top1"] for line in history), default=-1)
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                "train_top1": 100 * train_top1,
                "validation_loss": scores and scores.loss,
                "validation_top1": scores and scores.top1,
                "validation_top5": scores and scores.top5,
                "learning_rate": learning_rate,
                "images_per_second": round(images_seen / seconds, 1),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        if processes.first:
            print(describe(history[-1], options.epochs), flush=True)
            card = Card(options.model, arguments, data.classes, data.image_size, *data.mean_and_std, data.name, epoch + 1)
            for name in ("last", "best") if best else ("last",):
                save_weights(folder / f"{name}.safetensors", model, card)
            runs.write_metrics(folder, history)
            runs.save_checkpoint(
                folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
            )

    scores = evaluate(model, evaluation_batches(test, normalise, *share), processes, autocast)
    if processes.first:
        draw_curves(folder / "curves.png", f"{options.model} on {data.name}", history, scores.top1)
        runs.write_json(folder / runs.SUMMARY, summary(record, model, len(training), history, scores))
        print(f"test top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images:,} images, last epoch")
        print("wrote", *sorted(str(path) for path in folder.iterdir()), sep="\n  ")


def resolve(options: Namespace, data: DataSet, processes: Processes) -> None:
    """Fill in what depends on the data and the machine."""
    if options.precision == "auto":
        options.precision = "bfloat16" if supports_bfloat16(processes.device) else "float32"
    if options.mirror is None:
        options.mirror = data.mirror


def check_batch_size(batch_size: int, images: int, processes: int) -> None:
    """Refuse a global batch that the images do not fill or the processes cannot share."""
    if batch_size > images:
        raise UserError(f"--batch-size {batch_size} is more than the {images} training images")
    if batch_size < processes:
        raise UserError(f"--batch-size {batch_size} is less than the {processes} processes that share it")


def build_model(name: str, arguments: dict[str, object]) -> torch.nn.Module:
    """The named classifier for these data."""
    try:
        return cifarblocks.create_model(name, **arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"--model {name}: {error}") from error


def describe(line: dict[str, float | None], epochs: int) -> str:
    """One line of metrics.jsonl for people."""
    validation = ""
    if line["validation_loss"] is not None:
        validation = f"  validation loss {line['validation_loss']:.3f} top-1 {line['validation_top1']:.2f} %"
    return (
        f"epoch {line['epoch']:{len(str(epochs))}}/{epochs}  train loss {line['train_loss']:.3f} "
        f"top-1 {line['train_top1']:.2f} %{validation}  lr {line['learning_rate']:.4f}  "
        f"{line['images_per_second']:,.0f} images/s"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 1 for a run that failed, 2 for a command that cannot work."""
    options = parse_training_arguments(arguments, __doc__)
    try:
        with joined_processes() as processes:
            train(options, processes)
    except UserError as error:
        status, sentence = 2, str(error)
    except RunError as error:
        status, sentence = 1, str(error)
    except OSError as error:
        status, sentence = 1, f"{error.filename} could not be written: {error.strerror}; --resume goes on from before"
    except KeyboardInterrupt:
        status, sentence = 130, "interrupted; with --name and --resume it goes on from the last whole epoch"
    else:
        return 0
    if is_first():
        print(f"train.py: error: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
