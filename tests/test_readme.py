"""What the README and the other pages say to type works."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_commands_of_the_readme_run(tmp_path):
    """As they stand, one after the other, from an empty folder."""
    ran = 0
    for command in commands("bash"):
        if command.startswith("cifarblocks "):
            finished = subprocess.run(
                [sys.executable, "-m", *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True
            )
            assert finished.returncode == 0, finished.stderr
            ran += 1
    assert ran >= 2
    assert (tmp_path / "runs" / "resnet_32" / "first" / "summary.json").exists()


@pytest.mark.parametrize("command", [c for c in commands("console") if "cifarblocks train" in c])
def test_commands_that_need_a_network_or_a_gpu_have_options_that_exist(command):
    from cifarblocks.training.options.parse import read_options

    arguments = shlex.split(command)
    options = read_options(arguments[arguments.index("train") + 1 :])
    assert options.data.startswith(("cifar", "folder:"))


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
    import cifarblocks

    assert f"\nversion: {cifarblocks.__version__}\n" in (ROOT / "CITATION.cff").read_text()
