"""Compiling: once, with a line, for each source and compiler; and never an error. The cache: nobody else's code."""

import os
import shutil
import time

import pytest

from cifarblocks.native import compiling as native

ONCE = "cifarblocks: compiling loops for this processor, once\n"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFARBLOCKS_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "temporary"))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def compiler(tmp_path, monkeypatch, script):
    """Use a compiler that is a shell script; c++ is the real one."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_it_compiles_once_and_says_one_line(tmp_path, capfd):
    assert native.library() is not None
    assert capfd.readouterr().err == ONCE
    (made,) = (tmp_path / "home" / "cifarblocks").iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert capfd.readouterr() == ("", "")
    assert [(path, path.stat().st_mtime_ns) for path in made.parent.iterdir()] == [(made, written)]


@pytest.mark.parametrize("name", ["depthwise.cpp", "values.h"])
def test_another_source_is_another_library(tmp_path, monkeypatch, name):
    first = native.compiled()
    changed = shutil.copytree(native.SOURCES, tmp_path / "changed")
    monkeypatch.setattr(native, "SOURCES", changed)
    assert native.compiled() == first
    with (changed / name).open("a") as file:
        file.write("\n")
    assert native.compiled() != first


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
def test_a_library_that_is_not_what_was_written_is_never_loaded(capfd, spoil):
    path = native.compiled()
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    capfd.readouterr()
    assert native.library() is not None
    assert capfd.readouterr().err == ONCE
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
def test_a_library_that_another_could_have_planted_is_made_anew(capfd, change):
    path = native.compiled()
    change(path)
    assert native.compiled() == path
    assert native.is_private(path)
    assert capfd.readouterr().err == 2 * ONCE


@pytest.mark.parametrize("place", ["cifarblocks", "."])
@pytest.mark.parametrize("change", [others_can_write, link])
def test_a_folder_that_another_can_write_to_is_not_used(tmp_path, place, change):
    """Neither it nor one above it; a folder of mode 0700 in the temporary folder is used instead."""
    if (place, change) == (".", link):
        pytest.skip("a link to a folder of one's own is nobody else's")
    native.compiled()
    change(tmp_path / "home" / place)
    path = native.compiled()
    assert path.parent == tmp_path / "temporary" / f"cifarblocks-{os.geteuid()}"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_used(monkeypatch, capfd):
    planted = native.compiled()
    capfd.readouterr()
    monkeypatch.setattr(native.os, "geteuid", lambda: planted.stat().st_uid + 1)
    assert native.library() is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["/nowhere/c++", "false", 'c++ "'])
def test_without_a_compiler_it_is_silently_absent(monkeypatch, capfd, command):
    monkeypatch.setenv("CXX", command)
    assert native.library() is None
    assert capfd.readouterr() == ("", "")


def test_a_source_that_does_not_compile_leaves_no_library_is_said_and_remembered(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "broken.cpp").write_text("int main( {")
    monkeypatch.setattr(native, "SOURCES", folder)
    assert native.library() is None
    assert "cifarblocks: c++ failed, torch's own loops are used: " in capfd.readouterr().err
    (note,) = (tmp_path / "home" / "cifarblocks").iterdir()
    native.library.cache_clear()
    assert native.library() is None
    assert capfd.readouterr() == ("", "")
    os.utime(note, (0, time.time() - 2 * native.DAY))
    native.library.cache_clear()
    assert native.library() is None
    assert "c++ failed" in capfd.readouterr().err


def test_a_compiler_without_openmp_is_asked_for_less(tmp_path, monkeypatch, capfd):
    compiler(tmp_path, monkeypatch, 'case "$*" in *-fopenmp*) echo no OpenMP >&2; exit 1;; esac; exec c++ "$@"')
    assert native.library() is not None
    assert capfd.readouterr().err == ONCE


def test_a_compiler_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch, capfd):
    alive = tmp_path / "alive"
    compiler(tmp_path, monkeypatch, f"(sleep 5; touch {alive}) & wait")
    monkeypatch.setattr(native, "SECONDS", 0.3)
    start = time.monotonic()
    assert native.library() is None
    assert time.monotonic() - start < 4.5
    assert "it took over 0.3 s" in capfd.readouterr().err
    time.sleep(max(0.0, start + 5.5 - time.monotonic()))
    assert not alive.exists()


def test_a_cache_that_cannot_be_written_is_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.compiled().is_relative_to(tmp_path / "temporary")


def test_the_variable_turns_it_off(monkeypatch, capfd):
    monkeypatch.setenv("CIFARBLOCKS_NATIVE", "0")
    assert native.library() is None
    assert capfd.readouterr() == ("", "")


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
