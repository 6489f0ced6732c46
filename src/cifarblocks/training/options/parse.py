"""From a command line to the options of a run: the values given, then those of the recipe, then the defaults."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from cifarblocks.training.data.sources import find_source
from cifarblocks.training.distillation import teacher_digest
from cifarblocks.training.errors import UserError
from cifarblocks.training.models import SET_BY_DATA, has_batch_norm, sketch_model
from cifarblocks.training.optim.groups import ORTHOGONAL
from cifarblocks.training.optim.muon import MUON_SHARES
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.options.declared import DECLARED, Options, add_options, flag
from cifarblocks.training.options.recipes import RECIPES, as_arguments, find_recipe, load_recipes, recipe_of_family

DISTILLATION = {"distillation": 0.9, "temperature": 4.0}
WEIGHT_DECAYS = {"sgd": 5e-4, "muon": 5e-4, "adamw": 0.05, "muon_adamw": 0.05}


def read_options(
    arguments: Sequence[str] | None, program: str = "cifarblocks train", description: str | None = None
) -> Options:
    """Read a command line, and fill in the options that it does not give.

    Args:
        arguments: Arguments after the command. Default: those of this process.
        program: The command, for its help and its errors.
        description: The first paragraphs of the help.
    """
    parser = option_parser(program, description)
    typed = vars(parser.parse_args(arguments))
    try:
        return complete(typed)
    except UserError as error:
        parser.error(str(error))


def option_parser(program: str = "cifarblocks train", description: str | None = None) -> Parser:
    """Return a parser of all options; its result leaves out those that are not given."""
    parser = Parser(program, description, usage="[options]")
    add_options(parser, ("run", "data", "recipe", "place", "upkeep"))
    return parser


def complete(typed: dict[str, Any]) -> Options:
    """Return all options, from those that are given.

    Raises:
        UserError: If there is no such recipe or model, or the values do not go together.
    """
    values = combine(read_recipe(typed.get("recipe"), typed.get("model", DECLARED["model"]["default"])), typed)
    values["data"] = find_source(values["data"])
    if values["teacher"] is not None:
        values["teacher_weights"] = teacher_digest(values["teacher"])
    options = Options(**values, typed=frozenset(typed))
    check(options)
    channels = options.arguments.get("in_channels", 3)
    options = replace(
        options, mean=options.mean and options.mean[:channels], std=options.std and options.std[:channels]
    )
    network = sketch_model(options.model, options.arguments)
    if options.optimizer in ORTHOGONAL and not ORTHOGONAL[options.optimizer](network):
        needed = "filters without biases or groups" if options.optimizer == "muon" else "matrices in blocks"
        raise UserError(f"--optimizer {options.optimizer} needs {needed}, and {options.model} has none")
    return replace(options, lr=default_rate(options.optimizer, network)) if values["lr"] is None else options


def read_recipe(name: str | None, model: str, path: Path = RECIPES) -> dict[str, Any]:
    """Return the values of the named recipe, or of the recipe of the model's family, read as from a command line."""
    recipes, families = load_recipes(path)
    name = recipe_of_family(model, families) if name is None else name
    reader = Parser("cifarblocks train", about=f"recipe {name}: ")
    add_options(reader, ["recipe"])
    allowed = [flag(option)[2:] for option, told in DECLARED.items() if told["kind"] == "recipe"]
    return {"recipe": name, **vars(reader.parse_args(as_arguments(name, find_recipe(name, recipes), allowed)))}


def combine(recipe: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """Merge the values: the command line overrides the recipe, and the recipe overrides the defaults."""
    if typed.get("optimizer", recipe.get("optimizer")) != recipe.get("optimizer"):
        recipe = {name: value for name, value in recipe.items() if not DECLARED[name]["of_optimizer"]}
    if "epochs" in typed and "epochs" in recipe and "warmup_epochs" in recipe:
        recipe = {**recipe, "warmup_epochs": recipe["warmup_epochs"] * typed["epochs"] / recipe["epochs"]}
    if "teacher" in typed:
        recipe = {**DISTILLATION, **recipe}
    else:
        recipe = {name: value for name, value in recipe.items() if name not in DISTILLATION}
    values = {**{name: told["default"] for name, told in DECLARED.items()}, **recipe, **typed}
    values["model_argument"] = dict(values["model_argument"])
    if values["muon_share"] is None:
        values["muon_share"] = MUON_SHARES.get(values["optimizer"])
    if values["weight_decay"] is None:
        values["weight_decay"] = WEIGHT_DECAYS[values["optimizer"]]
    if values["warmup_epochs"] is None:
        values["warmup_epochs"] = min(1.0, values["epochs"] / 10)
    for name in ("drop_path", "dropout"):  # two spellings of one setting: the command line overrides the recipe
        if name in values["model_argument"] and name not in typed:
            values[name] = None
    return values


def check(options: Options) -> None:
    """Refuse values that contradict each other, and values that would have no effect."""
    arguments = options.model_argument
    refusals = {
        f"--warmup-epochs must be below --epochs {options.epochs}, got {options.warmup_epochs}": (
            options.warmup_epochs >= options.epochs
        ),
        "--resume needs the --name of the run to continue": options.resume and options.name is None,
        f"--muon-share {options.muon_share} needs --optimizer muon or muon_adamw, got {options.optimizer}": (
            options.muon_share is not None and options.optimizer not in MUON_SHARES
        ),
        f"--eps {options.eps} needs --optimizer adamw or muon_adamw, got {options.optimizer}": (
            options.eps is not None and options.optimizer not in ("adamw", "muon_adamw")
        ),
        f"--final-lr {options.final_lr} needs --schedule cosine, got constant": (
            options.final_lr > 0 and options.schedule == "constant"
        ),
        f"--mix-probability {options.mix_probability} needs --mixup or --cutmix": (
            options.mix_probability < 1 and not (options.mixup or options.cutmix)
        ),
        f"--distillation {options.distillation} needs --teacher": (
            options.distillation is not None and options.teacher is None
        ),
        f"--temperature {options.temperature} needs --teacher": (
            options.temperature is not None and options.teacher is None
        ),
        f"--share must be above 0, got {options.share}": options.share == 0,
        f"--ema must be below 1, got {options.ema}": options.ema >= 1,
        f"--drop-path must be below 1, got {options.drop_path}": (options.drop_path or 0) >= 1,
        f"--layer-decay must be above 0, got {options.layer_decay}": options.layer_decay == 0,
    }
    for argument in SET_BY_DATA:
        if argument in arguments:
            refusals[f"--model-argument {argument} is set by the data, got {arguments[argument]!r}"] = True
    channels = arguments.get("in_channels", 3)
    known = type(channels) is int and channels in (1, 3)
    refusals[f"--model-argument in_channels must be 1 or 3, got {channels!r}"] = not known
    for name in ("mean", "std"):
        values = getattr(options, name)
        sentence = f"--{name} must be the same number three times with in_channels=1, got {values}"
        refusals[sentence] = channels == 1 and len({*(values or ())}) > 1
    for argument in ("drop_path", "dropout"):
        if argument in arguments and getattr(options, argument) is not None:
            refusals[f"{flag(argument)} and --model-argument {argument} are both given; give one of them"] = True
    for sentence, refused in refusals.items():
        if refused:
            raise UserError(sentence)


def default_rate(optimizer: str, network: nn.Module) -> float:
    """Return a rate per 256 images: AdamW 0.001, with Muon 0.004; SGD 0.8, or 0.08 for networks without BatchNorm."""
    adaptive = {"adamw": 1e-3, "muon_adamw": 4e-3}
    return adaptive.get(optimizer) or (0.8 if has_batch_norm(network) else 0.08)
