"""Options of a run with any text as their value: they are read as sensible values, or refused by their name."""

import contextlib
import io
import math
import random

from commands import status_of
from refusals import assert_names

from cifarblocks.training.options.declared import DECLARED, Options, flag
from cifarblocks.training.options.parse import read_options

RARE = 2
WORDS = """
    - -- nan inf -inf 1e400 1e308 -1e308 1e-400 -1 -0.0 0 1 2 64 0.5 1.5 1,5 1e3 1_000 0x10 ١٢ true None [] {} ' "
    = =3 a=b x=[1, dropout=nan drop_path=2 num_classes=3 kernel_size=4 kernel_size='3' kernel_size=[[[ position=9
    sgd adamw muon cosine float64 trivial rand-2-9 rand-9-0.5 rand-99-99 mlp cnn resnet_20 any_network_sgd digits
    muon_adamw / . ../.. /dev/null folder: folder:nowhere --lr %s ü 猫
"""
TEXTS = [*WORDS.split(), "", " ", "a b", "\n", "\0", "a\tb", "\x1b[31m", "\udcff", str(2**63), str(-(2**70)), "9" * 400]
TEXTS += ["x" * 5000, "[" * 500, "x=" + "(" * 1000]
OPTIONS = [name for name, told in DECLARED.items() if told["kind"] != "begun"]


def case(seed: int) -> None:
    """Read one command line: the options are finite, or the exit status is 2 and one line says which is wrong."""
    draw = random.Random(seed)
    chosen = draw.sample(OPTIONS, draw.choice((1, 1, 2, 4)))
    arguments: list[str] = []
    for name in chosen:
        values = draw.choices(TEXTS, k=DECLARED[name]["arguments"].get("nargs", 1))
        arguments += draw.choice(([flag(name), *values], [f"{flag(name)}={values[0]}", *values[1:]], [flag(name)]))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        result = status_of(read_options, arguments)
    if isinstance(result, Options):
        assert all(math.isfinite(value) for value in vars(result).values() if isinstance(value, float)), arguments
        return
    assert result == 2, (arguments, result)
    assert_names(said.getvalue(), "cifarblocks train")
    words = [word for name in chosen for word in (flag(name)[2:].removesuffix("-argument"), *arguments)]
    assert any(repr(word)[1:-1] in said.getvalue() for word in words if word), (arguments, said.getvalue())
