"""Kernels are compiled once for each source and compiler, never raise an error, and load only the user's own code."""

import os
import shutil
import subprocess
import time

import pytest
import torch

import cifarblocks
from cifarblocks.blocks.basic import depthwise_conv
from cifarblocks.native import compiling as native

# A compiler that takes no time: a shell script, as quick as the copy of a library that is there.
QUICK = 'case "$*" in *-dM*) echo "#define QUICK";; *) for last; do :; done; cp "{library}" "$last";; esac'


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A shared library of nothing, by the real compiler."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "nothing.cpp").touch()
    made = folder / "nothing.so"
    native.run(["c++", "-shared", "-fPIC", str(folder / "nothing.cpp"), "-o", str(made)], 60)
    return made


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Use a compiler that is this shell script."""

    def use(script):
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return use


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch, compiler, library):
    monkeypatch.delenv("CIFARBLOCKS_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    compiler(QUICK.format(library=library))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def said(capfd):
    """The lines that were printed to stderr since the last call, and that nothing was to stdout."""

    def lines():
        out, err = capfd.readouterr()
        assert not out
        return err.splitlines()

    return lines


def test_it_compiles_once_and_says_one_line(tmp_path, said):
    assert native.library() is not None
    (line,) = said()
    assert line.startswith("cifarblocks: ")
    (made,) = (tmp_path / "home" / "cifarblocks").iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert not said()
    assert [(path, path.stat().st_mtime_ns) for path in made.parent.iterdir()] == [(made, written)]


def test_one_process_of_those_of_torchrun_says_it(said, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert native.library() is not None
    assert not said()


@pytest.mark.slow
def test_the_real_compiler_makes_the_kernels(monkeypatch):
    """In the quick suite every test of kernels finds them in the user's own cache or compiles them into it."""
    monkeypatch.delenv("CXX")
    assert native.library().batch_norm_float32


def test_inference_compiles_nothing(tmp_path):
    with torch.no_grad():
        cifarblocks.accelerate(depthwise_conv(8, 5))(torch.randn(2, 8, 5, 4))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["depthwise.cpp", "values.h"])
def test_another_source_is_another_library(tmp_path, name):
    first = native.compiled()
    changed = shutil.copytree(native.SOURCES, tmp_path / "changed")
    assert native.compiled(changed) == first
    with (changed / name).open("a") as file:
        file.write("\n")
    assert native.compiled(changed) != first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda c: c[:8192],
        lambda c: c[:-1],
        lambda c: c + b" ",
        lambda c: c[:-2000] + bytes([c[-2000] ^ 1]) + c[-1999:],
    ],
)
def test_a_library_that_is_not_what_was_written_is_never_loaded(said, spoil):
    path = native.compiled()
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    assert native.library() is not None
    assert len(said()) == 2
    assert path.read_bytes() == content


def test_the_folder_and_the_library_are_the_users_own(tmp_path):
    kept = os.umask(0)
    try:
        path = native.compiled()
    finally:
        os.umask(kept)
    assert path.parent == tmp_path / "home" / "cifarblocks"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def others_can_write(path):
    path.chmod(0o777)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("change", [others_can_write, link])
def test_a_library_that_another_could_have_planted_is_made_anew(said, change):
    path = native.compiled()
    change(path)
    assert native.compiled() == path
    assert native.is_private(path)
    assert len(said()) == 2


# A link to a folder of one's own is nobody else's.
@pytest.mark.parametrize(
    ("place", "change"), [("cifarblocks", others_can_write), ("cifarblocks", link), (".", others_can_write)]
)
def test_a_folder_that_another_can_write_to_is_not_used(tmp_path, place, change):
    """Neither it nor one above it; a folder of mode 0700 in the temporary folder is used instead."""
    native.compiled()
    change(tmp_path / "home" / place)
    path = native.compiled()
    assert path.parent == tmp_path / "temporary" / f"cifarblocks-{os.geteuid()}"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_used(monkeypatch, said):
    planted = native.compiled()
    said()
    monkeypatch.setattr("os.geteuid", lambda: planted.stat().st_uid + 1)
    assert native.library() is None
    assert not said()


@pytest.mark.parametrize("command", ["/nowhere/c++", "false", 'c++ "'])
def test_without_a_compiler_it_is_silently_absent(monkeypatch, said, command):
    monkeypatch.setenv("CXX", command)
    assert native.library() is None
    assert not said()


def test_a_compiler_that_fails_leaves_no_library_is_said_and_remembered(tmp_path, compiler, said):
    compiler('case "$*" in *-dM*) ;; *) echo "error: sorry" >&2; exit 1;; esac')
    assert native.library() is None
    assert "error: sorry" in said()[-1]
    (note,) = (tmp_path / "home" / "cifarblocks").iterdir()
    native.library.cache_clear()
    assert native.library() is None
    assert not said()
    os.utime(note, (0, time.time() - 2 * native.DAY))
    native.library.cache_clear()
    assert native.library() is None
    assert "error: sorry" in said()[-1]


def test_a_compiler_without_openmp_is_asked_for_less(compiler, library, said):
    compiler('case "$*" in *-fopenmp*) echo no OpenMP >&2; exit 1;; esac\n' + QUICK.format(library=library))
    assert native.library() is not None
    assert len(said()) == 1


def test_a_compiler_that_hangs_is_ended_with_what_it_started(tmp_path, compiler, said):
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    compiler(f"sleep 60 > {held} & wait")
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        native.compiled(seconds=0.3)
    assert "0.3 s" in said()[-1]
    while is_held(reader) and time.monotonic() < start + 10:
        time.sleep(0.01)
    assert time.monotonic() < start + 30
    assert not is_held(reader)
    os.close(reader)


def is_held(reader):
    """Return True if a process has the other end of a pipe open."""
    try:
        os.read(reader, 1)
    except BlockingIOError:
        return True
    return False


def test_a_cache_that_cannot_be_written_is_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.compiled().is_relative_to(tmp_path / "temporary")


def test_the_variable_turns_it_off(monkeypatch, said):
    monkeypatch.setenv("CIFARBLOCKS_NATIVE", "0")
    assert native.library() is None
    assert not said()


def test_a_link_does_not_hide_who_can_write_above_it(tmp_path, monkeypatch):
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open" / "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert native.private_folder().is_relative_to(tmp_path / "temporary")


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    assert native.private_folder() == tmp_path / "user" / ".cache" / "cifarblocks"
