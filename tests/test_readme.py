"""What the README and the other pages say to type works."""

import doctest
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cards import CARD

import cifarblocks
from cifarblocks import create_model
from cifarblocks.cli.main import main
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.run_folder.weights import save_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands(language: str) -> list[str]:
    return [line.removeprefix("$ ") for block in blocks(language) for line in block.splitlines()]


def test_the_python_of_the_readme_prints_what_it_says():
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("python")), {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 8
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_table_has_every_block_of_the_door():
    table = README.partition("| blocks | paper |")[2].partition("\n\n")[0]
    for name in cifarblocks.blocks.__all__:
        assert f"`{name}`" in table, f"{name} is not in the table of blocks in README.md"


def arguments_of(command: str) -> list[str]:
    """What follows `cifarblocks` in a line of a page."""
    words = shlex.split(command)
    return words[words.index("cifarblocks") + 1 :]


COMMANDS = [arguments_of(line) for line in commands("bash") if line.startswith("cifarblocks ")]


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, signals):
    """As they stand, one after the other, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    assert [main(command) for command in COMMANDS] == [0] * len(COMMANDS)
    assert (tmp_path / "runs" / "resnet_32" / "first" / "summary.json").exists()


def test_the_readme_predicts_with_the_weights_that_it_trains(tmp_path, monkeypatch, capsys):
    """The weights are random here: to train them takes long."""
    train, predict = COMMANDS
    options = read_options(train[1:])
    folder = tmp_path / "runs" / options.model / options.name
    folder.mkdir(parents=True)
    digits = {"arguments": {"num_classes": 10}, "classes": [str(digit) for digit in range(10)], "image_size": (32, 32)}
    card = replace(CARD, model=options.model, data=options.data, **digits)
    save_weights(folder / "last.safetensors", create_model(options.model, num_classes=10).state_dict(), card)
    monkeypatch.chdir(tmp_path)
    assert main(predict) == 0
    assert capsys.readouterr().out.startswith("digits ")


@pytest.mark.parametrize("command", [c for c in commands("console") if "cifarblocks train" in c])
def test_commands_that_need_a_network_or_a_gpu_have_options_that_exist(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("flowers").mkdir()
    options = read_options(arguments_of(command.partition("#")[0])[1:])
    assert options.data.startswith(("cifar", "fashion_mnist", "folder:flowers"))


@pytest.mark.parametrize("command", [c for c in commands("console") if "examples/speedrun.py" in c])
def test_commands_of_the_record_have_options_that_exist(command):
    from speedrun import parse

    arguments = shlex.split(command)
    assert parse(arguments[arguments.index("examples/speedrun.py") + 1 :]).data.startswith(("cifar", "folder:"))


def test_the_pip_lines_are_what_make_does():
    makefile = (ROOT / "Makefile").read_text()
    lines = commands("bash")
    assert "python3 -m venv .venv" in lines
    assert "$(PYTHON) -m venv .venv" in makefile
    for extra in ("train", "dev"):
        assert f'.venv/bin/pip install -e ".[{extra}]"' in lines
        assert f".venv/{extra}-is-installed" in makefile
    for target in ("$(BIN)/cifarblocks train --model eca_resnet_20", "$(BIN)/python -m pytest -n auto"):
        assert target in makefile
        assert target.replace("$(BIN)", ".venv/bin") in lines


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {cifarblocks.__version__}\n" in (ROOT / "CITATION.cff").read_text()
