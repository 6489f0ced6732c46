import pytest
from refusals import refuses

from cifarblocks.training.data.sources import NAMES, find_source
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.parse import read_options


def test_a_folder_is_found_by_its_path(image_folder, monkeypatch):
    monkeypatch.chdir(image_folder.parent)
    for text in ("shades", "shades/", "./shades", "folder:shades"):
        assert find_source(text) == "folder:shades"
        assert read_options(["--data", text]).data == "folder:shades"  # records are the same
    assert find_source(str(image_folder)) == f"folder:{image_folder}"


def test_a_name_wins_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).mkdir()
        assert find_source(name) == name
        assert find_source(f"./{name}") == f"folder:{name}"


@pytest.mark.parametrize("text", ["shads", "cifra10", "folder", "folder:", "x" * 5000, "no/where/shades", "\udcff"])
def test_what_is_neither_is_refused(image_folder, monkeypatch, text):
    monkeypatch.chdir(image_folder.parent)
    near = {"shads": ["shades"], "cifra10": ["cifar10"]}.get(text, [])
    with refuses(UserError, "--data", *NAMES, "a folder", repr(text), *map(repr, near)):
        find_source(text)
