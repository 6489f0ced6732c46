"""Runs with numbers at the ends of what an option takes: they train, or end in a sentence that names the option."""

import contextlib
import io
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from cards import write_weights
from commands import status_of, write_shades
from refusals import assert_names

from cifarblocks.cli.train import main
from cifarblocks.training.options.declared import DECLARED, flag

RARE = 100
SMALL = ["--model", "mlp", "--data", "folder:shades", "--epochs", "1", "--batch-size", "8", "--warmup-epochs", "0"]
NUMBERS = ["0", "1e-308", "1e-45", "1e-9", "0.5", "1", "2", "1e9", "1e38", "1e300", "1e308"]
NUMERIC = [
    name
    for name, told in DECLARED.items()
    if told["kind"] == "recipe" and told["arguments"].get("type") and name not in ("epochs", "policy")
]
WITH = {"muon_share": ["--optimizer", "muon", "--model", "resnet_20"], "eps": ["--optimizer", "adamw"]}
WITH |= {"mix_probability": ["--mixup", "0.2"]}
WITH |= {name: ["--teacher", "teacher.safetensors"] for name in ("distillation", "temperature")}


def case(seed: int) -> None:
    """Train an epoch with one number that is very small or very large."""
    draw = random.Random(seed)
    name, number = draw.choice(NUMERIC), draw.choice(NUMBERS)
    said = io.StringIO()
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_shades(Path("shades"))
        write_weights(Path("teacher.safetensors"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = status_of(main, [*SMALL, *WITH.get(name, []), flag(name), number])
    message = said.getvalue()
    assert status in (0, 1, 2), message
    if status:
        last = message.splitlines()[-1]
        assert_names(last, "cifarblocks train")
        assert flag(name) in last or name in last or flag("lr") in last, last
