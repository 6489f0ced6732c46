"""Compiling: once, with a line, for each source and compiler; and never an error."""

import shutil

import pytest

from cifarblocks import native


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFARBLOCKS_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_it_compiles_once_and_says_one_line(tmp_path, capfd):
    assert native.library() is not None
    assert capfd.readouterr().err == "cifarblocks: compiling loops for this processor, once\n"
    (made,) = (tmp_path / "cifarblocks").iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert capfd.readouterr() == ("", "")
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "cifarblocks").iterdir()] == [(made, written)]


@pytest.mark.parametrize("name", ["depthwise.cpp", "values.h"])
def test_another_source_is_another_library(tmp_path, monkeypatch, name):
    first = native.compiled()
    changed = shutil.copytree(native.FOLDER, tmp_path / "changed")
    monkeypatch.setattr(native, "FOLDER", changed)
    assert native.compiled() == first
    with (changed / name).open("a") as file:
        file.write("\n")
    assert native.compiled() != first


def test_a_library_that_a_crash_left_empty_is_made_anew(capfd):
    native.compiled().write_bytes(b"")
    capfd.readouterr()
    assert native.library() is not None
    assert capfd.readouterr().err == "cifarblocks: compiling loops for this processor, once\n"


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false", 'c++ "'])
def test_without_a_compiler_it_is_silently_absent(monkeypatch, capfd, compiler):
    monkeypatch.setenv("CXX", compiler)
    assert native.library() is None
    assert capfd.readouterr() == ("", "")


def test_a_source_that_does_not_compile_leaves_nothing_and_is_said(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "broken.cpp").write_text("int main( {")
    monkeypatch.setattr(native, "FOLDER", folder)
    assert native.library() is None
    assert list((tmp_path / "cifarblocks").iterdir()) == []
    assert "cifarblocks: c++ failed, torch's own loops are used: " in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_is_as_no_compiler(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.library() is None
    assert capfd.readouterr() == ("", "")


def test_the_variable_turns_it_off(monkeypatch, capfd):
    monkeypatch.setenv("CIFARBLOCKS_NATIVE", "0")
    assert native.library() is None
    assert capfd.readouterr() == ("", "")
