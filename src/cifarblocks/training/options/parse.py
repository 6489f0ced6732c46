"""The command line of cifarblocks train: what is typed, what the recipe says, and what is left open."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from cifarblocks.training.data.datasets import SOURCES
from cifarblocks.training.distributed import is_first
from cifarblocks.training.errors import UserError
from cifarblocks.training.models import SET_BY_DATA, has_batch_norm, sketch_model
from cifarblocks.training.optim.groups import filters_without_biases
from cifarblocks.training.options.declared import MUON_SHARE, WEIGHT_DECAYS, add_recipe_arguments, recipe_options
from cifarblocks.training.options.readers import folder_name, integer, named_value, number
from cifarblocks.training.options.recipes import as_arguments, find_recipe, load_recipes, recipe_of_family

__all__ = [
    "Parser",
    "add_data_arguments",
    "folder_name",
    "integer",
    "named_value",
    "number",
    "parse_training_arguments",
]

# Options that say where a run is and what is kept of it, not what it does: a run may be resumed with others.
PLACES = frozenset({"output", "name", "resume", "data_dir", "checkpoint_steps", "tensorboard", "no_test"})

# What a recipe says of its optimizer alone.
OF_OPTIMIZER = frozenset({"lr", "weight_decay", "eps", "muon_share"})


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, once for all processes, and exits with 2."""

    def __init__(self, program: str, description: str | None, about: str = "") -> None:
        super().__init__(
            program,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.about = about

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        if is_first():
            print(f"{self.prog}: error: {self.about}{message}", file=sys.stderr)
        sys.exit(2)


def parse_training_arguments(
    arguments: list[str] | None, description: str | None, program: str = "cifarblocks train"
) -> argparse.Namespace:
    """Read the command line; what it leaves open is filled in, so that the result is the whole configuration.

    Args:
        arguments: what is typed after the name of the script; None for what was typed.
        description: what `--help` says first.
        program: name of the script.
    """
    parser = Parser(program, description)
    add_run_arguments(parser)
    add_data_arguments(parser)
    add_recipe_arguments(parser)
    defaults = vars(parser.parse_args([]))
    typed = read_given(parser, arguments)
    try:
        recipe = read_recipe(typed.get("recipe"), typed.get("model", defaults["model"]))
        options = combine(defaults, recipe, typed)
        check(options)
        model = sketch_model(options)
        check_optimizer(options, model)
    except UserError as error:
        parser.error(str(error))
    if options.lr is None:
        options.lr = default_learning_rate(options.optimizer, has_batch_norm(model))
    return options


def read_given(parser: Parser, arguments: list[str] | None) -> dict[str, Any]:
    """The options that the arguments name, without any default."""
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([]))))
    return {name: value for name, value in vars(parser.parse_args(arguments, blank)).items() if value is not None}


def read_recipe(name: str | None, model: str) -> dict[str, Any]:
    """The values of the named recipe, or of that of the model's family, read as if they were typed."""
    recipes, families = load_recipes()
    name = name or recipe_of_family(model, families)
    reader = Parser("cifarblocks train", None, about=f"recipe {name}: ")
    add_recipe_arguments(reader)
    allowed = [option.replace("_", "-") for option in recipe_options()]
    return {"recipe": name, **read_given(reader, as_arguments(name, find_recipe(name, recipes), allowed))}


def combine(defaults: dict[str, Any], recipe: dict[str, Any], typed: dict[str, Any]) -> argparse.Namespace:
    """What is typed before what the recipe says, and that before the defaults."""
    if typed.get("optimizer", recipe.get("optimizer")) != recipe.get("optimizer"):
        recipe = {name: value for name, value in recipe.items() if name not in OF_OPTIMIZER}
    if "epochs" in typed and "epochs" in recipe and "warmup_epochs" in recipe:
        recipe = {**recipe, "warmup_epochs": recipe["warmup_epochs"] * typed["epochs"] / recipe["epochs"]}
    options = argparse.Namespace(**{**defaults, **recipe, **typed})
    if options.muon_share is None and options.optimizer == "muon":
        options.muon_share = MUON_SHARE
    if options.weight_decay is None:
        options.weight_decay = WEIGHT_DECAYS[options.optimizer]
    if options.warmup_epochs is None:
        options.warmup_epochs = min(1.0, options.epochs / 10)
    options.model_argument = dict(options.model_argument)
    for name in ("drop_path", "dropout"):  # the same thing said in two ways: what is typed wins over the recipe
        if name in options.model_argument and name not in typed:
            setattr(options, name, None)
    return options


def check(options: argparse.Namespace) -> None:
    """Refuse values that do not go together, so that there is none that nothing reads."""
    name, arguments = options.name, options.model_argument
    refusals = {
        f"--warmup-epochs must be below --epochs {options.epochs}, got {options.warmup_epochs}": (
            options.warmup_epochs >= options.epochs
        ),
        "--resume needs the --name of the run to go on with": options.resume and name is None,
        f"--muon-share {options.muon_share} is of muon, and --optimizer is {options.optimizer}": (
            options.muon_share is not None and options.optimizer != "muon"
        ),
        f"--eps {options.eps} is of adamw, and --optimizer is {options.optimizer}": (
            options.eps is not None and options.optimizer != "adamw"
        ),
        f"--final-lr {options.final_lr} is where a cosine ends, and --schedule is constant": (
            options.final_lr > 0 and options.schedule == "constant"
        ),
        f"--mix-probability {options.mix_probability} is of --mixup or --cutmix, and neither is given": (
            options.mix_probability < 1 and not (options.mixup or options.cutmix)
        ),
        f"--share must be above 0, got {options.share}": options.share == 0,
        f"--ema must be below 1, got {options.ema}": options.ema >= 1,
        f"--layer-decay must be above 0, got {options.layer_decay}": options.layer_decay == 0,
    }
    for argument in SET_BY_DATA:
        if argument in arguments:
            refusals[f"--model-argument {argument} is set by the data, got {arguments[argument]!r}"] = True
    for argument in ("drop_path", "dropout"):
        if argument in arguments and getattr(options, argument) is not None:
            refusals[f"--{argument.replace('_', '-')} and --model-argument {argument} are both given"] = True
    for sentence, refused in refusals.items():
        if refused:
            raise UserError(sentence)


def check_optimizer(options: argparse.Namespace, model: nn.Module) -> None:
    """Refuse an optimizer that the model has nothing for."""
    if options.optimizer == "muon" and not filters_without_biases(model):
        raise UserError(f"--optimizer muon moves filters without biases or groups, and {options.model} has none")


def default_learning_rate(optimizer: str, batch_norm: bool) -> float:
    """Per 256 images: AdamW 0.001; SGD and Muon 0.8, or a tenth for networks without BatchNorm, which bear no more."""
    if optimizer == "adamw":
        return 1e-3
    return 0.8 if batch_norm else 0.08


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained, how it is written down, and by which recipe."""
    add = parser.add_argument
    add("--model", default="eca_resnet_20", help="a name of cifarblocks.list_models() (default: %(default)s)")
    add("--model-argument", metavar="NAME=VALUE", type=named_value, action="append", default=[],
        help="an argument of the model, such as kernel_size=5 or drop_path=0.1; may be repeated")  # fmt: skip
    add("--recipe", help="a recipe of recipes.toml (default: that of the model's family)")
    add("--seed", type=integer(0, 2**63 - 1), default=0,
        help="what initial weights, order and augmentation are drawn from (default: %(default)s)")  # fmt: skip
    add("--final", action="store_true",
        help="train on all training images and hold none out to select with")  # fmt: skip
    add("--share", type=number(0, 1), default=1.0,
        help="train on this share of the training images, the same of each class (default: all of them)")  # fmt: skip
    add("--no-test", action="store_true",
        help="leave the test images alone; the same command without it, and with --resume, tests")  # fmt: skip
    add("--mean", type=number(0, 1), nargs=3, metavar=("R", "G", "B"),
        help="what is taken from the channels of an image (default: the mean of the training images)")  # fmt: skip
    add("--std", type=number(1 / 255, 1), nargs=3, metavar=("R", "G", "B"),
        help="what they are divided by then (default: the standard deviation of the training images)")  # fmt: skip
    add("--output", type=Path, default=Path("runs"), help="runs are written to OUTPUT/MODEL/NAME (default: runs)")
    add("--name", type=folder_name, help="name of the run (default: the date and time)")
    add("--resume", action="store_true", help="go on with the run of that --name, or begin it")
    add("--checkpoint-steps", type=integer(0), default=0,
        help="write a checkpoint every so many steps too (default: 0, after each epoch alone)")  # fmt: skip
    add("--tensorboard", action="store_true", help="write the metrics for TensorBoard too, to the run's tensorboard/")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which data set: `--data`, `--data-dir` and `--image-size`."""
    add = parser.add_argument
    add("--data", default="digits", help=f"{SOURCES} (default: %(default)s)")
    add("--data-dir", type=Path, default=Path("data"), help="where CIFAR and decoded folders are kept (default: data)")
    add("--image-size", type=integer(1, 4096),
        help="make every image of this height and width, and those of a folder RGB (default: as they are)")  # fmt: skip
