"""Ctrl-C and SIGTERM before a command has begun: importing torch takes most of its first two seconds."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refusals import assert_names

from cifarblocks.cli.main import COMMANDS
from cifarblocks.leaving import is_command

PYTHON = [sys.executable, "-u", "-m"]


@pytest.mark.parametrize(
    ("argv", "typed", "answer"),
    [
        (["-m", "train"], [*PYTHON, "cifarblocks", "train"], True),
        (["-m"], [sys.executable, "-mcifarblocks"], True),
        (["/usr/bin/cifarblocks", "list"], [sys.executable, "/usr/bin/cifarblocks", "list"], True),
        (["-m", "cifarblocks"], [*PYTHON, "mine", "cifarblocks"], False),
        (["train.py", "cifarblocks"], [sys.executable, "train.py", "cifarblocks"], False),
        (["-c"], [sys.executable, "-c", "import cifarblocks"], False),
        ([""], [sys.executable], False),
        ([], [sys.executable], False),
    ],
)
def test_programs_that_import_the_package_keep_their_handlers(argv, typed, answer, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert is_command() is answer


def begun(*arguments, folder):
    """A command from the moment on at which it answers signals."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen([*PYTHON, "cifarblocks", *arguments], cwd=folder, text=True, **pipes)
    while not answers(process.pid, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.001)
    return process


def answers(pid, number):
    mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return int(mask, 16) >> (number - 1) & 1


linux = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_imported_is_answered_in_a_line(number, signals, tmp_path):
    process = begun("list", folder=tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert_names(said, "cifarblocks: error", "interrupted")


ARGUMENTS = {
    "list": [],
    "show": ["mlp"],
    "train": ["--model", "mlp"],
    "finetune": ["--weights", "none"],
    "predict": ["--weights", "none", "a.png"],
    "sweep": ["optimizer"],
    "search": ["--search", "lr=0.1..1"],
}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_moment_ends_every_command_in_a_line(name, number, signals, tmp_path):
    draw = random.Random(f"{name} {number}")
    for _ in range(8):
        process = begun(name, *ARGUMENTS[name], folder=tmp_path)
        time.sleep(draw.uniform(0, 3))
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
        whole = {"list": 0, "show": 0, "finetune": 2, "predict": 2}.get(name)
        if process.returncode == -number and whole is not None:
            assert printed or said  # all is done, and Python puts the handlers of the system back as it ends
            continue
        assert process.returncode in (128 + number, whole), said
        assert len(said.splitlines()) == (process.returncode != 0), said
