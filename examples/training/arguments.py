"""The command line of train.py."""

import argparse
import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

import cifarblocks
from training.datasets import SOURCES
from training.processes import is_first

PRECISIONS = ("auto", "bfloat16", "float32", "float64")
DEFAULTS = {"sgd": {"lr": 0.8, "weight_decay": 5e-4}, "adamw": {"lr": 1e-3, "weight_decay": 0.05}}
# Options that say where a run is, not what it does: a run may be resumed with others.
PLACES = frozenset({"output", "name", "resume", "data_dir"})


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, once for all processes, and exits with 2."""

    def __init__(self, program: str, description: str | None) -> None:
        super().__init__(
            program,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        if is_first():
            print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)


def parse_training_arguments(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """Read the command line; what it leaves open is filled in, so that the result is the whole configuration."""
    parser = Parser("train.py", description)
    add = parser.add_argument
    add("--model", default="eca_resnet_20", help="a name of cifarblocks.list_models() (default: %(default)s)")
    add("--model-argument", metavar="NAME=VALUE", type=named_value, action="append", default=[],
        help="an argument of the model, such as kernel_size=5 or drop_path=0.1; may be repeated")  # fmt: skip
    add_data_arguments(parser)
    add("--mirror", action=argparse.BooleanOptionalAction,
        help="mirror one half of the training images (default: not for digits)")  # fmt: skip
    add("--shift", type=number(0, 0.5), default=1 / 16,
        help="largest shift of the random crop, as a share of height and width (default: %(default)s)")  # fmt: skip
    add("--erasing", type=number(0, 1), default=0.0, help="probability of random erasing (default: %(default)s)")
    add("--epochs", type=integer(1), default=20, help="(default: %(default)s)")
    add("--batch-size", type=integer(1), default=64,
        help="of the global batch, split over the processes (default: %(default)s)")  # fmt: skip
    add("--optimizer", choices=sorted(DEFAULTS), default="sgd", help="(default: %(default)s)")
    add("--lr", type=number(0), help="peak learning rate per 256 images of the global batch "
        "(default: 0.8 for sgd, 0.001 for adamw; networks without BatchNorm take a tenth)")  # fmt: skip
    add("--warmup-epochs", type=number(0), help="linear warm-up (default: 1, or a tenth of a run of under 10 epochs)")
    add("--weight-decay", type=number(0), help="(default: 0.0005 for sgd, 0.05 for adamw)")
    add("--label-smoothing", type=number(0, 1), default=0.0, help="(default: %(default)s)")
    add("--clip", type=number(0), help="largest norm of the gradient (default: not clipped)")
    add("--seed", type=integer(0), default=0, help="(default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="auto",
        help="bfloat16 is autocast; auto takes it where the hardware has it (default: %(default)s)")  # fmt: skip
    add("--final", action="store_true", help="train on all training images and hold none out to select with")
    add("--output", type=Path, default=Path("runs"), help="runs are written to OUTPUT/MODEL/NAME (default: runs)")
    add("--name", help="name of the run (default: the date and time)")
    add("--resume", action="store_true", help="go on with the run of that --name, or begin it")
    options = parser.parse_args(arguments)

    defaults = DEFAULTS[options.optimizer]
    options.lr = defaults["lr"] if options.lr is None else options.lr
    options.weight_decay = defaults["weight_decay"] if options.weight_decay is None else options.weight_decay
    if options.warmup_epochs is None:
        options.warmup_epochs = min(1.0, options.epochs / 10)
    options.model_argument = dict(options.model_argument)
    if options.warmup_epochs >= options.epochs:
        parser.error(f"--warmup-epochs must be below --epochs {options.epochs}, got {options.warmup_epochs}")
    if options.resume and options.name is None:
        parser.error("--resume needs the --name of the run to go on with")
    if options.name is not None and Path(options.name).name != options.name:
        parser.error(f"--name must be the name of one folder, got {options.name!r}")
    for name in ("num_classes", "image_size", "in_channels"):
        if name in options.model_argument:
            parser.error(f"--model-argument {name} is set by the data, got {options.model_argument[name]!r}")
    try:
        with torch.device("meta"):
            cifarblocks.create_model(options.model, **options.model_argument)
    except (ValueError, TypeError) as error:
        parser.error(f"--model {options.model}: {error}")
    return options


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which data set: `--data`, `--data-dir` and `--image-size`."""
    add = parser.add_argument
    add("--data", default="digits", help=f"{SOURCES} (default: %(default)s)")
    add("--data-dir", type=Path, default=Path("data"), help="where CIFAR and decoded folders are kept (default: data)")
    add("--image-size", type=integer(1), help="for folders: make every image RGB and of this height and width")


def named_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value a Python literal where it reads as one, else a string.

    >>> named_value("kernel_size=5"), named_value("shortcut=padding")
    (('kernel_size', 5), ('shortcut', 'padding'))
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def integer(least: int) -> Callable[[str], int]:
    """A reader of whole numbers of at least that."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return value

    return read


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A reader of finite numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"must be a number {limits}, got {text!r}")
        return value

    return read
