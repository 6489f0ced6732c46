"""Grid files: a file that is not a grid is refused at once in one sentence."""

from argparse import ArgumentTypeError

import pytest
from refusals import refuses

from cifarblocks.training.compare.grid import MOST_RUNS, read_grid, read_value
from cifarblocks.training.errors import UserError

MODEL = "model = 'mlp'"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"runs = [{{{MODEL}, lr = {'[' * 100_000}}}]", ["TOML", "brackets"]),
        (f"runs = {'{a=' * 100_000}", ["TOML", "brackets"]),
        ("runs = [[[[1]]]]", ["runs"]),
        ("runs = []", ["runs"]),
        ("equal-time = {model = 'mlp', epochs = 1}\nruns = []", ["runs"]),
        ("[runs]\nmodel = 'mlp'", ["runs"]),
        (f'runs = [{{{MODEL}, data = "a\\u0000b"}}]', ["data", r"'a\x00b'"]),
        (f"runs = [{{{MODEL}, lr = 0x{'F' * 5000}}}]", ["lr", 64]),
        (f"runs = [{{{MODEL}, epochs = {10**30}}}]", ["epochs", 64]),
        (f"runs = [{{{MODEL}, lr = 1979-05-27}}]", ["lr"]),
        (f"runs = [{{{MODEL}, lr = [[[1]]]}}]", ["lr"]),
        (f"runs = [{{{MODEL}, model-argument = {{a = {{b = 1}}}}}}]", ["model-argument.a"]),
        (f"runs = [{{{MODEL}, epochs = {{}}}}]", ["epochs", "empty"]),
        (f"runs = [{{{MODEL}, epochs = []}}]", ["epochs", "empty"]),
        (f"runs = [{{{MODEL}, model-argument = {{a = []}}}}]", ["model-argument.a", "empty"]),
        (f"equal-time = {{}}\nruns = [{{{MODEL}}}]", ["equal-time", "empty"]),
        (f"options = 3\nruns = [{{{MODEL}}}]", ["options", 3]),
        (f"equal-time = 3\nruns = [{{{MODEL}}}]", ["equal-time"]),
        (
            f"runs = [{{{MODEL}, lr = {list(range(1000))}, seed = {list(range(3000))}}}]",
            ["3,000,000", f"{MOST_RUNS:,}"],
        ),
        ("", ["runs"]),
        ("\0", ["TOML"]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value[-40:]),
)
def test_what_is_no_grid_is_refused(tmp_path, text, named):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with refuses(UserError, path, *named) as caught:
        read_grid(path, {})
    assert len(str(caught.value)) < 500


def test_a_grid_of_as_many_runs_as_may_be_is_read(tmp_path):
    (tmp_path / "grid.toml").write_text(f"runs = [{{{MODEL}, seed = {list(range(MOST_RUNS))}}}]")
    assert len(read_grid(tmp_path / "grid.toml", {}).runs) == MOST_RUNS


def test_a_value_that_is_no_toml_is_a_text(tmp_path):
    brackets = "[" * 100_000
    assert read_value(f"data={brackets}") == ("data", brackets)
    with refuses(ArgumentTypeError, "KEY=VALUE"):
        read_value("data")
