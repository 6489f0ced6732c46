"""The command line of train.py."""

import argparse
import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

import cifarblocks
from training.datasets import SOURCES
from training.errors import first_line
from training.processes import is_first
from training.setup import has_batch_norm

PRECISIONS = ("auto", "bfloat16", "float32", "float64")
WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}
# Options that say where a run is, not what it does: a run may be resumed with others.
PLACES = frozenset({"output", "name", "resume", "data_dir", "no_test"})


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
        help="mirror each training image every other epoch (default: not for digits)")  # fmt: skip
    add("--shift", type=number(0, 0.5), default=3 / 32,
        help="largest shift of the random crop, as a share of height and width (default: %(default)s)")  # fmt: skip
    add("--erasing", type=number(0, 1), default=0.0, help="probability of random erasing (default: %(default)s)")
    add("--epochs", type=integer(1), default=20, help="passes over the training images (default: %(default)s)")
    add("--batch-size", type=integer(1), default=64,
        help="global batch size, split over the processes (default: %(default)s)")  # fmt: skip
    add("--optimizer", choices=sorted(WEIGHT_DECAYS), default="sgd", help="(default: %(default)s)")
    add("--lr", type=number(0), help="peak learning rate per 256 images of the global batch "
        "(default: 0.001 for adamw, 0.8 for sgd, 0.08 for sgd on a network without BatchNorm)")  # fmt: skip
    add("--warmup-epochs", type=number(0), help="linear warm-up (default: 1, or a tenth of a run of under 10 epochs)")
    add("--weight-decay", type=number(0), help="(default: 0.0005 for sgd, 0.05 for adamw)")
    add("--label-smoothing", type=number(0, 1), default=0.1, help="(default: %(default)s)")
    add("--clip", type=number(0), default=0.0, help="largest norm of the gradient (default: 0, not clipped)")
    add("--seed", type=integer(0, 2**63 - 1), default=0,
        help="what initial weights, order and augmentation are drawn from (default: %(default)s)")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="auto",
        help="bfloat16 is autocast; auto takes it where the hardware has it (default: %(default)s)")  # fmt: skip
    add("--final", action="store_true", help="train on all training images and hold none out to select with")
    add("--share", type=number(0, 1), default=1.0,
        help="train on this share of the training images, the same of each class (default: all of them)")  # fmt: skip
    add("--no-test", action="store_true",
        help="leave the test images alone; the same command without it, and with --resume, tests")  # fmt: skip
    add("--output", type=Path, default=Path("runs"), help="runs are written to OUTPUT/MODEL/NAME (default: runs)")
    add("--name", help="name of the run (default: the date and time)")
    add("--resume", action="store_true", help="go on with the run of that --name, or begin it")
    options = parser.parse_args(arguments)

    if options.weight_decay is None:
        options.weight_decay = WEIGHT_DECAYS[options.optimizer]
    if options.warmup_epochs is None:
        options.warmup_epochs = min(1.0, options.epochs / 10)
    options.model_argument = dict(options.model_argument)
    if options.warmup_epochs >= options.epochs:
        parser.error(f"--warmup-epochs must be below --epochs {options.epochs}, got {options.warmup_epochs}")
    if options.resume and options.name is None:
        parser.error("--resume needs the --name of the run to go on with")
    if options.name is not None and (options.name in ("", "..") or Path(options.name).name != options.name):
        parser.error(f"--name must be the name of one folder, got {options.name!r}")
    for name in ("num_classes", "image_size", "in_channels"):
        if name in options.model_argument:
            parser.error(f"--model-argument {name} is set by the data, got {options.model_argument[name]!r}")
    try:
        with torch.device("meta"):
            model = cifarblocks.create_model(options.model, **options.model_argument)
    except (ValueError, TypeError, RuntimeError) as error:
        given = "".join(f" {name}={value!r}" for name, value in options.model_argument.items())
        parser.error(f"--model {options.model}{given}: {first_line(error)}")
    if options.lr is None:
        options.lr = default_learning_rate(options.optimizer, model)
    return options


def default_learning_rate(optimizer: str, model: nn.Module) -> float:
    """Per 256 images: AdamW 0.001; SGD 0.8, or a tenth of it for networks without BatchNorm, which do not bear it."""
    if optimizer == "adamw":
        return 1e-3
    return 0.8 if has_batch_norm(model) else 0.08


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which data set: `--data`, `--data-dir` and `--image-size`."""
    add = parser.add_argument
    add("--data", default="digits", help=f"{SOURCES} (default: %(default)s)")
    add("--data-dir", type=Path, default=Path("data"), help="where CIFAR and decoded folders are kept (default: data)")
    add("--image-size", type=integer(1, 4096),
        help="for folders: make every image RGB and of this height and width")  # fmt: skip


def named_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value a Python literal where it reads as one, else a string.

    >>> named_value("kernel_size=5"), named_value("shortcut=A")
    (('kernel_size', 5), ('shortcut', 'A'))
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def integer(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A reader of whole numbers in a range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limits = f"of at least {least}" if value < least else f"of at most {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, got {text!r}")
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
