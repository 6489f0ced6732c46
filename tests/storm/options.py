"""Options of a run with any text as their value: they are read as sensible values, or refused by their name."""

import contextlib
import io
import math
import random
from dataclasses import fields

from commands import status_of
from refusals import assert_names

from cifarblocks.training.options.declared import DECLARED, Options, flag
from cifarblocks.training.options.parse import read_options

RARE = 2
TEXTS = ["", " ", "-", "--", "nan", "inf", "-inf", "1e400", "1e308", "1e-400", "-1", "-0.0", "0", "1", "2", "3", "0.5"]
TEXTS += [
    "1.5",
    "1e3",
    "1_000",
    "0x10",
    "١٢",
    "true",
    "None",
    "[]",
    "[" * 500,
    "a=b",
    "=",
    "=3",
    "x=[1, 2",
    "dropout=nan",
]
TEXTS += ["dropout=nan", "drop_path=2", "num_classes=3", "kernel_size=4", "kernel_size='3'", "position=9", "mlp", "sgd"]
TEXTS += ["../..", "/", ".", "ü", "猫", "\n", "a\tb", "\x1b[31m", "\udcff", "x" * 5000, str(2**63), str(-(2**70))]
TEXTS += ["folder:", "folder:nowhere", "digits", "cifar10", "rand-9-0.5", "rand-99-99", "trivial", "%s", "{}", "'", '"']
TYPED = [name for name, told in DECLARED.items() if told["kind"] != "begun"]


def case(seed: int) -> None:
    """Give one or two options a text each."""
    draw = random.Random(seed)
    chosen = draw.sample(TYPED, draw.choice((1, 1, 2)))
    arguments = [argument for name in chosen for argument in typed(name, draw)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        result = status_of(read_options, arguments)
    if isinstance(result, Options):
        assert_finite(result, arguments)
    else:
        assert result == 2, (arguments, result)
        assert_names(said.getvalue(), "cifarblocks train")
        message = said.getvalue()
        assert any(flag(name)[2:].removesuffix("-argument") in message for name in chosen), (arguments, message)


def typed(name: str, draw: random.Random) -> list[str]:
    """Return an option as it is typed, with a value where it takes one, or three."""
    told = DECLARED[name]["arguments"]
    if "action" in told and told["action"] != "append":
        return [flag(name)]
    if told.get("nargs"):
        return [flag(name), *draw.choices(TEXTS, k=told["nargs"])]
    text = draw.choice(TEXTS)
    return draw.choice(([f"{flag(name)}={text}"], [flag(name), text]))


def assert_finite(options: Options, arguments: list[str]) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float):
            assert math.isfinite(value), (arguments, field.name, value)
