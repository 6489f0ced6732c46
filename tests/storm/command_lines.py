"""Random command lines of `cifarblocks train`: options that are whole, or one sentence, whatever was typed."""

import contextlib
import io
import math
import random

from commands import status_of

from cifarblocks.training.options.declared import DECLARED, Options, flag
from cifarblocks.training.options.parse import read_options

WORDS = """
    nan inf -inf 1e308 -1e308 1e-320 -1 0 1 0.5 2 64 1,5
    -- - none é [] ../.. /dev/null True --lr x=1 x= =1 drop_path=0.1 dropout=nan kernel_size=[[[
    sgd adamw muon cosine float64 trivial rand-2-9 mlp cnn resnet_20 any_network_sgd
"""
VALUES = [*WORDS.split(), "", "a b", "\udcff", "\n", "\0", "9" * 400, "x" * 300, "x=" + "(" * 1000]
OPTIONS = [name for name, told in DECLARED.items() if told["kind"] != "begun"]


def case(seed: int) -> None:
    """Read one command line: the options are finite, or the exit status is 2 and one line says why."""
    draw = random.Random(seed)
    arguments: list[str] = []
    for name in draw.sample(OPTIONS, draw.randint(1, 4)):
        values = draw.choices(VALUES, k=DECLARED[name]["arguments"].get("nargs", 1))
        arguments += draw.choice(([flag(name), *values], [f"{flag(name)}={values[0]}", *values[1:]], [flag(name)]))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        answer = status_of(read_options, arguments)
    if isinstance(answer, Options):
        assert all(math.isfinite(value) for value in vars(answer).values() if isinstance(value, float)), arguments
    else:
        assert answer == 2, arguments
        assert said.getvalue().startswith("cifarblocks train: error: "), (arguments, said.getvalue())
        assert len(said.getvalue().splitlines()) == 1, (arguments, said.getvalue())
