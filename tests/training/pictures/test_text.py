import os

import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from cifarblocks.training.compare.table import Row
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.pictures.compare import draw_bars, draw_learning_curves, draw_pareto_front
from cifarblocks.training.pictures.curves import draw_curves
from cifarblocks.training.pictures.mistakes import draw_mistakes
from cifarblocks.training.pictures.study import draw_study
from cifarblocks.training.pictures.text import drawable

# Long, in no font of matplotlib, formulas that it refuses, control characters, and not UTF-8.
NAMES = ["x" * 400, "猫", r"$\frac$", "$x^", "5$ 6$", "a\nb\t", os.fsdecode(b"caf\xe9")]
LINE = {"epoch": 1, "seconds": 1.0} | {
    f"{part}_{key}": 1.0 for part in ("train", "validation") for key in ("loss", "top1")
}


def test_what_the_font_has_stays_as_it_is():
    for text in ("maple, ahorn", "Größe → 5 %", "érable", "клён", "a\\b_c^d"):
        assert drawable(text) == text


def test_what_the_font_lacks_is_escaped():
    assert [drawable(name) for name in NAMES[1:]] == [
        r"\u732b", r"\$\frac\$", r"\$x^", r"5\$ 6\$", r"a\nb\t", r"caf\udce9",
    ]  # fmt: skip


def test_the_middle_of_a_long_text_is_left_out():
    assert drawable("0123456789", 10) == "0123456789"
    assert drawable("0123456789a", 10) == "01234…789a"
    assert drawable("$" * 99, 4) == r"\$\$…\$"  # none of them begins a formula


def test_any_name_of_a_class_can_be_drawn(tmp_path):
    """matplotlib warns of each character that it lacks, and a warning is an error here."""
    images = Images(torch.zeros(7, 8, 8, 3, dtype=torch.uint8), torch.arange(7))
    outcomes = torch.tensor([[1, 1.0, 0.0]]).expand(7, 3)
    draw_mistakes(tmp_path / "mistakes.png", NAMES[0], images, outcomes, NAMES)


@pytest.mark.slow
def test_any_name_of_a_folder_or_value_can_be_drawn(tmp_path):
    path, title = tmp_path / "picture.png", " ".join(NAMES)
    draw_curves(path, title, [LINE])
    summary = {"model": "mlp", "multiply_adds": 10, "test_top1": 50.0, "validation_top1": 50.0}
    rows = [Row(name, [summary | {"test_top1": 50.0 + number}], [[LINE]]) for number, name in enumerate(NAMES)]
    for draw in (draw_pareto_front, draw_learning_curves, draw_bars):
        draw(path, title, rows)
    space = {"data": CategoricalDistribution(NAMES)}
    trials = [
        create_trial(
            value=1.0,
            params={"data": name},
            distributions=space,
            intermediate_values={1: 1.0},
            user_attrs={"values": {"data": name}},
        )
        for name in NAMES
    ]
    draw_study(path, title, trials, space)
