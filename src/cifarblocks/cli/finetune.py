"""Go on from trained weights: with other classes, other images, another image size.

    cifarblocks finetune --weights runs/MODEL/NAME/last.safetensors --data folder:PATH
    cifarblocks finetune --weights runs/MODEL/NAME/last.safetensors --data folder:PATH --freeze
    cifarblocks finetune --weights FILE --source timm --model vit_tiny_16 --data folder:PATH --image-size 224

Without --freeze the whole network is trained, by the recipe fine_tuning_adamw: a constant learning rate and an average
of the weights. With --freeze the last layer alone is, by frozen_backbone_adamw: the rest
of the network is run once over the images, what comes out is kept in DATA_DIR/cache/features, and a hundred epochs on
it take seconds, as often as one likes.

Every option of `cifarblocks train` may be given too. The last layer is kept where the weights are for the same classes
in the same order, and is new otherwise; positions and the like that were made for another image size are resized.
"""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifarblocks.training.commands import run_command
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.distributed import Processes, is_first
from cifarblocks.training.errors import UserError
from cifarblocks.training.evaluation import all_outcomes, evaluate
from cifarblocks.training.finetune.probe import Features, fit_head, read_features
from cifarblocks.training.finetune.starting import Start, read_start
from cifarblocks.training.loop import train, write_results
from cifarblocks.training.options.parse import Parser, parse_training_arguments
from cifarblocks.training.run import Run, prepare
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.report import describe_epoch, describe_run, summary
from cifarblocks.training.run_folder.scalars import ScalarLog
from cifarblocks.training.run_folder.weights import save_weights
from cifarblocks.training.saving import weights_card
from cifarblocks.training.stopping import stop_on_signals

# What is read where the last layer alone is trained; the other options of cifarblocks train would change nothing.
READ_IF_FROZEN = {"model", "model_argument", "recipe", "seed", "final", "share", "no_test", "output", "name",
    "resume", "tensorboard", "mean", "std", "accelerate", "data", "data_dir", "image_size", "epochs", "batch_size",
    "optimizer", "eps", "lr", "final_lr", "schedule", "warmup_epochs", "weight_decay", "label_smoothing", "mirror",
    "precision"}  # fmt: skip


@runs.releasing_locks()
def train_head(options: Namespace, processes: Processes, start: Start) -> None:
    """Train the last layer of a frozen network, test it once, and write everything down."""
    if processes.world_size > 1:
        raise UserError(f"--freeze trains one layer in one process, got {processes.world_size} of torchrun")
    run = prepare(options, processes, lambda *given: build(start, *given))
    if runs.is_finished(run.folder):
        print(f"run {run.folder} is finished; its result is in {run.folder / runs.SUMMARY}")
        return
    print(describe_run(options, run.data, run.state.model, len(run.training), processes))
    began = time.perf_counter()
    training, validation, test = read_features(run)
    print(f"features: {training.values.shape[-1]} an image, in {time.perf_counter() - began:.1f} s", flush=True)
    log = ScalarLog(run.folder, 0) if options.tensorboard else None
    for line in fit_head(run, training, validation):
        print(describe_epoch(line, options.epochs))
        if log is not None:
            log.write(line)
    save_weights(run.folder / "last.safetensors", run.state.model, weights_card(run))
    runs.write_metrics(run.folder, run.state.history)
    if test is not None:
        finish_head(run, test)


def finish_head(run: Run, test: Features) -> None:
    """Score the last weights on the features of the test images, once, and write summary and pictures."""
    outcomes: list[torch.Tensor] = []
    layer: nn.Module = run.state.model.head.classifier  # type: ignore[union-attr, assignment]
    scores = evaluate(layer, test.evaluation_batches(), run.processes, run.autocast, outcomes)
    result = summary(run.record, run.state.model, len(run.training), run.state.history, scores)
    write_results(run, result, all_outcomes(outcomes, scores.images, run.processes))
    print(f"test top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images:,} images, last epoch")
    print("wrote", *sorted(run.folder.iterdir()), sep="\n  ")


def build(start: Start, options: Namespace, data: DataSet) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier with its first weights, and what it was built with."""
    if is_first():
        print(start.describe(data))
    return start.build(options, data)


def parse_arguments(arguments: list[str] | None) -> tuple[Namespace, Start]:
    """Read the weights and the command line, which goes on where what the weights say of themselves ends."""
    parser = Parser("cifarblocks finetune", __doc__)
    parser.add_argument(
        "--weights", type=Path, required=True, help="a file that cifarblocks train wrote, or of a --source"
    )
    parser.add_argument("--source", choices=("timm", "torchvision"), help="the library that published the weights")
    parser.add_argument("--model", help="the network that they are of, with its --model-argument, for a --source")
    parser.add_argument("--freeze", action="store_true", help="train the last layer alone")
    own, others = parser.parse_known_args(arguments)
    if own.source and not own.model:
        parser.error(f"--source {own.source} needs the --model that the weights are of")
    try:
        start = read_start(own.weights, own.source)
    except UserError as error:
        parser.error(str(error))
    if start.card and own.model not in (None, start.card.model):
        parser.error(f"--model {own.model}: --weights {own.weights} are of {start.card.model}")
    recipe = "frozen_backbone_adamw" if own.freeze else "fine_tuning_adamw"
    first = ["--model", start.card.model if start.card else own.model, *start.arguments(), "--recipe", recipe]
    options = parse_training_arguments([*first, *others], None, "cifarblocks finetune")
    if own.freeze:
        if options.optimizer == "muon":
            parser.error("--optimizer muon is not for --freeze, which trains the last layer alone")
        for name, value in vars(parse_training_arguments(first, None, "cifarblocks finetune")).items():
            if name not in READ_IF_FROZEN and getattr(options, name) != value:
                parser.error(f"--{name.replace('_', '-')} is not for --freeze, which trains the last layer alone")
    options.weights, options.source, options.freeze = start.digest, own.source, own.freeze
    return options, start


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    options, start = parse_arguments(arguments)
    if options.freeze:
        stop_on_signals()
        again = "with --name and --resume it begins again, from the features that are kept"
        return run_command("cifarblocks finetune", lambda processes: train_head(options, processes, start), again)
    return run_command(
        "cifarblocks finetune", lambda processes: train(options, processes, lambda *given: build(start, *given))
    )
