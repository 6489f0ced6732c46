"""Output on terminals that are closed, full, or of few characters."""

import io
import os
import sys

import pytest
from refusals import assert_names

from cifarblocks.training.output import discard, open_streams, progress, tell, tell_unwritten


@pytest.fixture
def full():
    """A full disk, which a test makes one of Python's streams."""
    with open("/dev/full", "w") as stream:
        yield stream
        discard(stream)


def test_what_cannot_be_shown_is_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    open_streams()
    print("ü 猫", os.fsdecode(b"\xff"), flush=True)
    assert terminal.buffer.getvalue() == b"\\xfc \\u732b \\udcff\n"


def test_closed_streams_are_opened(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_streams()
    for name in ("stdin", "stdout", "stderr"):
        with getattr(sys, name) as stream:
            assert stream.name == os.devnull
            assert stream.readable() == (name == "stdin")


def test_items_are_the_same_with_a_progress_bar_and_without_tqdm(monkeypatch):
    assert list(progress(range(3), "counting", "number")) == [0, 1, 2]
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress(iter("ab"), "reading", length=2)) == ["a", "b"]


def test_an_error_has_one_line_and_is_said_once(capsys, monkeypatch):
    tell("a.py", "no\nfile\x1b\udcff")
    assert_names(capsys.readouterr().err, "a.py: error", r"no\nfile\x1b\udcff")
    monkeypatch.setenv("RANK", "1")
    tell("a.py", "no file")
    assert capsys.readouterr().err == ""
    tell("a.py", "no memory", once=False)
    assert_names(capsys.readouterr().err, "no memory")


def test_an_error_that_cannot_be_written_is_left_alone(full, monkeypatch):
    monkeypatch.setattr(sys, "stderr", full)
    tell("a.py", "no file")
    full.flush()  # as Python does at its end


def test_a_full_disk_under_the_output_is_told_and_a_reader_that_has_gone_is_not(full, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", full)
    full.write("lines")
    tell_unwritten("a.py", OSError(28, "No space left on device"))
    assert_names(capsys.readouterr().err, "a.py: error", "output", "No space left on device")
    full.flush()
    tell_unwritten("a.py", BrokenPipeError(32, "Broken pipe"))
    assert capsys.readouterr().err == ""
    tell_unwritten("a.py", OSError(28, "No space left on device", "checkpoint.pt"))
    assert_names(capsys.readouterr().err, "checkpoint.pt")
