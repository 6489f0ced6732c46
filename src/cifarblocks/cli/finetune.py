"""Train from trained weights: for other classes, other images or another image size.

    cifarblocks finetune --weights eca_resnet_20.cifar10_jpeg --data PATH
    cifarblocks finetune --weights runs/MODEL/NAME/last.safetensors --data PATH --freeze
    cifarblocks finetune --weights FILE --source timm --model vit_tiny_16 --data PATH --image-size 224

Without --freeze the whole network is trained, by the recipe fine_tuning_adamw: a constant learning rate and an average
of the weights. With --freeze only the last layer is trained, by the recipe frozen_backbone_adamw. The rest of the
network runs once over the images, and its features are kept in DATA_DIR/cache/features. A hundred epochs on them take
seconds.

Every option of `cifarblocks train` may be given too. The last layer is kept if the weights have the same classes in the
same order, and is new otherwise. Position embeddings and biases are resized to the image size.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifarblocks.checkpoints.tables import TABLES
from cifarblocks.models.classifier import Classifier
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.finetune.probe import prepare_frozen
from cifarblocks.training.finetune.starting import Start, read_start
from cifarblocks.training.loop import train
from cifarblocks.training.optim.groups import ORTHOGONAL
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.options.declared import DECLARED, Options, flag
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.output import is_first, one_line
from cifarblocks.training.run import Run, prepare
from cifarblocks.training.stopping import run_command

PROGRAM = "cifarblocks finetune"


def parse_arguments(arguments: list[str] | None) -> tuple[Options, Start]:
    """Read the weights and the command line, whose options override those of the weights."""
    parser = Parser(PROGRAM, __doc__, usage="--weights FILE [options]")
    group = parser.add_argument_group("weights", "and every option of `cifarblocks train`")
    group.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="a file or run folder, a name that `cifarblocks list --weights` prints, or a file of a --source",
    )
    group.add_argument("--source", choices=tuple(TABLES), help="the library that published the weights")
    group.add_argument("--model", help="the network of the weights, with its --model-argument; needed with --source")
    group.add_argument("--freeze", action="store_true", help="train only the last layer")
    own, others = parser.parse_known_args(arguments)
    if own.source and not own.model:
        parser.error(f"--source {own.source} needs --model, the network of the weights")
    try:
        start = read_start(own.weights, own.source)
    except UserError as error:
        parser.error(str(error))
    if start.card and own.model not in (None, start.card.model):
        parser.error(f"--model {own.model} does not match --weights {own.weights}, which are of {start.card.model}")
    recipe = "frozen_backbone_adamw" if own.freeze else "fine_tuning_adamw"
    first = ["--model", start.card.model if start.card else own.model, *start.arguments(), "--recipe", recipe]
    options = read_options([*first, *others], PROGRAM)
    if own.freeze:
        check_frozen(parser, options, read_options(first, PROGRAM))
    return replace(options, weights=start.digest, source=own.source, freeze=own.freeze), start


def check_frozen(parser: argparse.ArgumentParser, options: Options, plain: Options) -> None:
    """Refuse options that have no effect on the last layer alone."""
    if options.optimizer in ORTHOGONAL:
        parser.error(f"--optimizer {options.optimizer} has no effect with --freeze, which trains only the last layer")
    for name, told in DECLARED.items():
        if not told["frozen"] and getattr(options, name) != getattr(plain, name):
            parser.error(f"{flag(name)} has no effect with --freeze, which trains only the last layer")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    options, start = parse_arguments(arguments)

    def build(name: str, given: dict[str, Any], data: DataSet) -> tuple[Classifier, dict[str, Any]]:
        if is_first():
            print(one_line(start.describe(data)))
        return start.build(name, given, data)

    def prepared(options: Options, processes: Processes) -> Run:
        return (prepare_frozen if options.freeze else prepare)(options, processes, build)

    return run_command(PROGRAM, lambda processes: train(options, processes, prepared), options.device)
