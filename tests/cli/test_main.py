import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from cards import CARD
from PIL import Image
from refusals import assert_names

import cifarblocks
from cifarblocks.cli.main import COMMANDS, main
from cifarblocks.training.run_folder.weights import save_weights


def test_names_are_listed_by_a_wildcard(capsys):
    assert main(["list", "eca_resnet_*"]) == 0
    assert capsys.readouterr().out.split() == cifarblocks.list_models("eca_resnet_*")


def test_a_model_is_shown_part_by_part(capsys):
    assert main(["show", "eca_resnet_20"]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.startswith(("stem", "stages", "head", "all"))]
    numbers = [[int(cell.replace(",", "")) for cell in row[-2:]] for row in rows]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1] == [278_351, 40_819_952]
    assert [row[1] for row in rows if row[0].startswith("stages")] == ["16×32×32", "32×16×16", "64×8×8"]
    assert "https://arxiv.org/abs/1910.03151" in text
    assert "ECA: written from the paper; the authors' code is MIT." in text


def test_an_unknown_name_is_answered_with_near_ones(refused):
    refused(main, ["show", "eca_resnet_2"], "eca_resnet_2", "eca_resnet_20")
    refused(main, ["show", "gnconv"], "gnconv", "python -m pydoc cifarblocks.blocks.GnConv")


def test_alone_it_prints_what_there_is_in_ten_lines(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_an_unknown_command_is_answered_with_a_near_one_or_all(refused):
    refused(main, ["trian"], "trian", "train")
    refused(main, ["x"], "x", *COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cifarblocks {cifarblocks.__version__}\n"


@pytest.mark.parametrize("buffering", [1, -1], ids=["by lines", "all"])
@pytest.mark.parametrize(
    "command", [[], ["list"], ["show", "mlp"], ["list", "--help"], ["sweep", "optimizer", "--dry-run"]]
)
def test_a_reader_that_has_gone_ends_a_command_quietly(command, buffering, monkeypatch, signals, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering) as output:  # whose buffer is flushed once more when it is closed
        monkeypatch.setattr(sys, "stdout", output)
        assert main(command) == 1
    assert capsys.readouterr().err == ""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Weights of two classes, one of them of a name that is not ASCII, and an image of a name that is not UTF-8."""
    monkeypatch.chdir(tmp_path)
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    save_weights(tmp_path / "a.safetensors", model.state_dict(), replace(CARD, classes=["dark", "猫"]))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    return ["predict", "--weights", "a.safetensors", os.fsdecode(b"\xff.png")]


QUICK = ["train", "--model", "mlp", "--epochs", "1", "--share", "0.1", "--image-size", "8"]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("command", [["list"], ["list", "--help"], ["train", "--help"], ["predict"], QUICK])
def test_a_full_disk_under_the_output_is_told_in_a_line(command, at_once, weights, monkeypatch, refused):
    with io.TextIOWrapper(open("/dev/full", "wb", 0 if at_once else -1), write_through=at_once) as output:
        monkeypatch.setattr(sys, "stdout", output)
        refused(main, weights if command == ["predict"] else command, "output", os.strerror(errno.ENOSPC), status=1)


def test_closed_streams_change_nothing(weights, monkeypatch):
    """The progress bars of training write to stderr."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main([*QUICK, "--name", "a"]) == main(weights) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    assert Path("runs/mlp/a/summary.json").exists()


def test_what_a_terminal_cannot_show_is_escaped(weights, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([*QUICK, "--name", "ü"]) == main([*weights, "--top", "2"]) == 0
    shown = terminal.buffer.getvalue().decode("ascii")
    assert "runs/mlp/\\xfc/summary.json" in shown
    assert re.search(r"^\\udcff.png: .*\\u732b", shown, re.MULTILINE)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert main(weights) == 0


@pytest.mark.parametrize(
    ("arguments", "named", "unnamed"),
    [
        (["list"], [], "--"),
        (["predict", "--evaluate", "--image-size=99"], ["--image-size 99"], "--batch-size"),
        (["train", "--model", "mlp", "--image-size", "9"], ["--model mlp --image-size 9", "--batch-size"], "None"),
    ],
)
def test_too_little_memory_is_told_in_a_line(arguments, named, unnamed, monkeypatch, refused):
    command = import_module(f"cifarblocks.cli.{arguments[0]}")
    monkeypatch.setattr(command, "main", lambda _: torch.empty(2**60))
    told = refused(main, arguments, f"cifarblocks {arguments[0]}: error", "out of memory", *named, status=1)
    assert unnamed not in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cifarblocks {name} ")


# Without the packages of every extra. Each command ends with its status, what it wrote to stderr, and what it imported.
ALONE = """
import contextlib, io, json, sys, torch
missing = "torchvision numpy matplotlib PIL tqdm tensorboard optuna filelock textalloc onnx".split()
sys.modules.update(dict.fromkeys(missing))
answers = {}
for command in json.loads(sys.argv[1]):
    before, printed = set(sys.modules), io.StringIO()
    from cifarblocks.cli.main import main
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(command.split())
        except SystemExit as leaving:
            status = leaving.code
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
    answers[command] = status, printed.getvalue(), sorted(new)
print(json.dumps(answers))
"""
# Nothing but what they need is imported for these, so they stand first.
LIGHT = {"": 0, "--help": 0, "train --help": 0, "train --epochs none": 2}
SHOWN = ["list eca_*", "show mlp", "predict --weights eca_resnet_20.digits --evaluate"]
EXTRAS = {
    "train": "cifarblocks[train]",
    "finetune --weights none": "cifarblocks[train]",
    "sweep grid.toml": "cifarblocks[train]",
    "search": "cifarblocks[search]",
    "export --weights eca_resnet_20.digits a.onnx": "cifarblocks[export]",
    "predict --weights eca_resnet_20.digits a.png": "pillow",
    "predict --weights eca_resnet_20.digits --evaluate --data folder:.": "pillow",
    "predict --weights eca_resnet_20.digits --evaluate --data cifar10": "cifarblocks[train]",
}


def test_without_extras_commands_name_what_to_install_and_import_nothing_that_they_do_not_need(tmp_path):
    command = [sys.executable, "-c", ALONE, json.dumps([*LIGHT, *SHOWN, *EXTRAS])]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = json.loads(finished.stdout)
    for command, expected in LIGHT.items():
        status, _, imported = answers[command]
        assert status == expected, command
        assert set(imported) <= {"cifarblocks", "einops"}, command
    for command in SHOWN:
        assert answers[command][:2] == [0, ""]
    for command, extra in EXTRAS.items():
        status, printed, _ = answers[command]
        assert status == 2, command
        assert_names(printed, f"cifarblocks {command.split()[0]}", f"pip install '{extra}'")
