"""Search space: ranges of options as given on the command line, and values as printed."""

import math
from argparse import ArgumentTypeError
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cifarblocks.training.compare.launch import Settings, command_line, parse, tidy
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.declared import DECLARED, Options

Space = dict[str, Any]  # an optuna distribution for each option
ALSO_SEARCHED = ("recipe", "image_size")  # in addition to the options that a recipe sets
SWITCHED = {"true": True, "false": False}


def read_range(text: str) -> tuple[str, BaseDistribution]:
    """Read NAME=LOW..HIGH, on a logarithmic scale from a factor of 10 on, or NAME=ONE,OTHER.

    >>> read_range("weight_decay=1e-5..1e-2")
    ('weight-decay', FloatDistribution(high=0.01, log=True, low=1e-05, step=None))
    >>> read_range("epochs=5..20")
    ('epochs', FloatDistribution(high=20.0, log=False, low=5.0, step=None))
    >>> read_range("optimizer=sgd,adamw")
    ('optimizer', CategoricalDistribution(choices=('sgd', 'adamw')))
    >>> read_range("mirror=true,false")
    ('mirror', CategoricalDistribution(choices=(True, False)))
    """
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ArgumentTypeError(f"must be NAME=LOW..HIGH or NAME=ONE,OTHER, got {text!r}")
    if ".." not in values:
        choices = values.split(",")
        for value in choices:
            if not value or choices.count(value) > 1:
                wrong = f"the choice {value!r} twice" if value else "an empty choice"
                raise ArgumentTypeError(f"must be NAME=ONE,OTHER, got {wrong} in {text!r}")
        return tidy(key), CategoricalDistribution([SWITCHED.get(value, value) for value in choices])
    try:
        low, high = map(float, values.split(".."))
        if not (low < high and math.isfinite(high - low)):
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(f"must be NAME=LOW..HIGH, two numbers and the lower one first, got {text!r}") from None
    logarithmic = low > 0 and high >= 10 * low
    return tidy(key), FloatDistribution(low, high, log=logarithmic)


def check_space(space: Space, arguments: list[str]) -> Options:
    """Return the options that are not searched, after checking that both ends of every range are valid values."""
    if not space:
        raise UserError("--search is missing: give at least one, such as --search lr=0.05..5")
    trained = parse(arguments)
    if trained.final:
        raise UserError("--final leaves no validation images, and a search needs them")
    for key, distribution in space.items():
        check_key(key, trained)
        if (same := f"model-argument.{key.replace('-', '_')}") in space and key in ("drop-path", "dropout"):
            raise UserError(f"--search {key} and --search {same} are the same rate; give one of them")
        ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
        for value in map(typed, ends):
            parse([*arguments, *command_line({key: value})], f"--search {key}={value}: ")
    return trained


def check_key(key: str, given: Options) -> None:
    """Refuse to search for an option that does not change the training, or that is also given."""
    option, _, argument = key.partition(".")
    name = option.replace("-", "_")
    if not argument and name in DECLARED and DECLARED[name]["kind"] != "recipe" and name not in ALSO_SEARCHED:
        searched = "an option that a recipe sets, recipe, image-size or model-argument.NAME"
        raise UserError(f"--search {key} cannot be searched: give {searched}")
    if argument in given.model_argument if argument else name in given.typed:
        raise UserError(f"--search {key} and --{key} are both given; give one of them")


def typed(value: Any) -> Any:
    """Return a number without a fraction as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_numbers(key: str, distribution: BaseDistribution, arguments: list[str]) -> BaseDistribution:
    """Return a range of integers if the option takes only integers, else the range unchanged."""
    if not isinstance(distribution, FloatDistribution):
        return distribution
    low, high = typed(distribution.low), typed(distribution.high)
    try:
        parse([*arguments, *command_line({key: distribution.low + 0.5})])
    except UserError:
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=distribution.log)
    return distribution


def describe_space(space: Space) -> str:
    """Return the search space, human-readable, one line per option."""
    lines = []
    for key, distribution in space.items():
        scale = " on a logarithmic scale" if getattr(distribution, "log", False) else ""
        choices = getattr(distribution, "choices", None)
        among = ", ".join(map(str, choices)) if choices else f"{distribution.low:g} to {distribution.high:g}"
        lines.append(f"{key}: {among}{scale}")
    return "\n".join(lines)


def readable(value: Any) -> Any:
    """Return a number rounded to four digits.

    >>> readable(0.123456), readable(3), readable("adamw")
    (0.1235, 3, 'adamw')
    """
    return float(f"{value:.4g}") if isinstance(value, float) else value


def describe_values(values: Settings) -> str:
    """Return the values, human-readable.

    >>> describe_values({"lr": 0.1, "model-argument.drop_path": 0.2})
    'lr 0.1, drop_path 0.2'
    """
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
