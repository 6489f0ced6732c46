"""Values that no option takes, whichever it is: each is refused by its name, with what was given."""

import os
from pathlib import Path

import pytest

from cifarblocks.cli import export, finetune, list, predict, search, show, sweep, train
from cifarblocks.training.options.command_line import Parser, integer, named_value, nearest, number
from cifarblocks.training.options.declared import DECLARED, Options, flag
from cifarblocks.training.options.parse import read_options

TYPED = {name: told["arguments"] for name, told in DECLARED.items() if told["kind"] != "begun"}
NUMBERS = [name for name in TYPED if any(kind in str(Options.__annotations__[name]) for kind in ("int", "float"))]


@pytest.mark.parametrize(("value", "wrong"), [("", "be empty"), ("--", "be '--'"), ("a\0b", "have a null character")])
def test_a_value_that_is_none_is_refused_by_every_option(value, wrong, refused):
    for name in TYPED:
        about = f"argument {flag(name)}: must not {wrong}, got {value!r}"
        refused(read_options, [f"{flag(name)}={value}"], "cifarblocks train: error", about)
    for name in ("recipe", "mean"):
        if value != "--":  # argparse says by itself that this is no value
            refused(read_options, [flag(name), value], flag(name), repr(value))


def test_what_is_no_text_is_no_place_to_write_to(refused):
    for name in ("output", "data_dir", "name"):
        refused(read_options, [flag(name), NO_TEXT], flag(name), repr(NO_TEXT), "utf-8")
    assert read_options(["--output", "ü 猫"]).output == Path("ü 猫")


@pytest.mark.parametrize("text", ["nan", "inf", "1e308", "1e400", "1,5"])
def test_numbers_without_sense_are_refused_by_every_option(text, refused):
    assert {"lr", "mixup", "mean", "epochs", "image_size"} < set(NUMBERS)
    for name in NUMBERS:
        values = [text] * TYPED[name].get("nargs", 1)
        refused(read_options, [flag(name), *values], flag(name), repr(text))


# Beside each mistake stands one that is found later, so that none of these trains where the first is not.
SEARCH = ["--search", "lr=1,2", "--epochs", "none"]
SWEEP = ["optimizer", "--dry-run"]
NO_TEXT = os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        (search.main, [*SEARCH, "--name", ""], ["--name", "''"]),
        (search.main, [*SEARCH, "--storage="], ["--storage", "''"]),
        (search.main, [*SEARCH, "--share", "nan"], ["--share", "nan"]),
        (search.main, [*SEARCH, "--trials", "inf"], ["--trials", "inf"]),
        (search.main, [*SEARCH, "--search", "lr=3,4"], ["--search", "lr", "twice"]),
        (search.main, [*SEARCH, "--search", "model_argument.a=-1e308..1e308"], ["--search", "1e308"]),
        (sweep.main, ["", "--dry-run"], ["''"]),
        (sweep.main, [*SWEEP, "--output", ""], ["--output", "''"]),
        (sweep.main, [*SWEEP, "--jobs", "1000000000000000000"], ["--jobs", 4096]),
        (sweep.main, [*SWEEP, "--set", "lr=1", "--set", "lr=2"], ["--set", "lr", "twice"]),
        (finetune.main, ["--weights", ""], ["--weights", "''"]),
        (finetune.main, ["--weights", "a", "--model="], ["--model", "''"]),
        (predict.main, ["--weights", "a", ""], ["--weights", "''"]),
        (predict.main, ["--weights", "a", "a.png", "--top", "nan"], ["--top", "nan"]),
        (search.main, [*SEARCH, "--output", NO_TEXT], ["--output", repr(NO_TEXT), "utf-8"]),
        (search.main, [*SEARCH, "--name", NO_TEXT], ["--name", repr(NO_TEXT), "utf-8"]),
        (sweep.main, [*SWEEP, "--output", NO_TEXT], ["--output", repr(NO_TEXT), "utf-8"]),
        (predict.main, ["--weights", "a", "--evaluate", "--data-dir", NO_TEXT], ["--data-dir", repr(NO_TEXT), "utf-8"]),
        (show.main, [""], ["''"]),
        (list.main, [""], ["''"]),
    ],
)
def test_every_command_refuses_what_says_nothing(main, arguments, named, monkeypatch, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    refused(main, arguments, f"cifarblocks {main.__module__.rpartition('.')[2]}: error", *named)
    assert not [*tmp_path.iterdir()]


def test_the_ends_of_a_range_are_in_it():
    assert [number(0, 1)(text) for text in ("0", "1", "0.5", "-0.0")] == [0, 1, 0.5, 0]
    assert number(0)("1e6") == 1e6
    assert [integer(1, 3)(text) for text in ("1", "3")] == [1, 3]


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        (train.main, "--optimiser sgd", ["--optimiser", "--optimizer"]),
        (train.main, "--lr-rate 2", ["--lr-rate", "did you mean --lr"]),
        (predict.main, "--wieghts a.safetensors a.png", ["--wieghts", "--weights"]),
        (train.main, "--model-ema --share 0.1", ["--model-ema", "did you mean --ema"]),
        (train.main, "--learning-rate 2", ["did you mean --lr"]),
        (train.main, "-b 32", ["-b 32", "did you mean --batch-size"]),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(main, arguments, named, refused):
    refused(main, arguments.split(), *named)


def test_an_option_that_only_shares_letters_is_not_suggested():
    assert nearest("--version", ["--erasing"]) is None


def test_a_missing_option_is_explained(refused):
    for main in (predict.main, export.main, finetune.main):
        refused(main, ["runs/first", "model.onnx"], "--weights", "a file or run folder", "cifarblocks list --weights")
    refused(sweep.main, [], "grid", "a TOML file, or one of", "eca_kernel")


def test_a_folder_without_its_option_is_answered_with_it(tmp_path, refused):
    refused(train.main, [str(tmp_path)], tmp_path, f"did you mean --data {tmp_path}")


def test_a_value_of_many_brackets_is_text():
    text = "[" * 100_000
    assert named_value(f"a={text}") == ("a", text)


def test_what_follows_two_dashes_is_no_option(capsys):
    parser = Parser("a.py")
    parser.add_argument("files", nargs="*")
    assert parser.parse_args(["--", "--a=b"]).files == ["--a=b"]
