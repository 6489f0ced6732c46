import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import assert_names, refuses
from safetensors.torch import load_file

from cifarblocks.training.data import folders
from cifarblocks.training.data.cache import write_cache
from cifarblocks.training.data.folders import load_folder
from cifarblocks.training.errors import UserError


def test_reads_every_image_under_its_class(image_folder, tmp_path):
    name, (train, train_labels), (test, test_labels), classes = load_folder(image_folder, tmp_path / "cache")
    assert (name, classes) == ("shades", ["dark", "light"])
    assert train.shape == (24, 6, 8, 3)
    assert test.shape == (8, 6, 8, 3)
    assert torch.equal(train_labels, torch.arange(2).repeat_interleave(12))
    assert torch.equal(test_labels, torch.arange(2).repeat_interleave(4))
    assert torch.equal(train.flatten(1).max(1).values > 127, train_labels.bool())


def test_a_class_whose_name_is_not_text_is_escaped(image_folder, tmp_path):
    """A Latin-1 name of another machine, which pictures, JSON and TensorBoard could not write."""
    for part in ("train", "test"):
        (image_folder / part / "dark").rename(image_folder / part / os.fsdecode(b"caf\xe9"))
    assert load_folder(image_folder, tmp_path / "cache")[3] == ["caf\\udce9", "light"]


def repaint(cache):
    """Make all images of the cache black, so that it is seen where they come from."""
    (path,) = cache.iterdir()
    tensors = load_file(path)
    for name in ("train_pixels", "test_pixels"):
        tensors[name].zero_()
    write_cache(path, {name: tensors[name] for name in folders.TENSORS})


def test_decodes_once_and_again_when_a_file_changes(image_folder, tmp_path):
    first = load_folder(image_folder, tmp_path / "cache")
    repaint(tmp_path / "cache")
    assert not load_folder(image_folder, tmp_path / "cache")[1][0].any()

    Image.new("RGB", (8, 6), (9, 9, 9)).save(image_folder / "train" / "dark" / "0.png")
    changed = load_folder(image_folder, tmp_path / "cache")
    assert (changed[1][0][0] == 9).all()
    assert torch.equal(changed[1][0][1:], first[1][0][1:])


def test_a_moved_folder_is_not_decoded_again(image_folder, tmp_path):
    load_folder(image_folder, tmp_path / "cache")
    repaint(tmp_path / "cache")
    name, (train, _), *_ = load_folder(image_folder.rename(tmp_path / "elsewhere"), tmp_path / "cache")
    assert name == "elsewhere"
    assert not train.any()


@pytest.mark.parametrize("damage", [lambda data: data[:-40] + bytes(40), lambda data: data[:100], lambda _: b""])
def test_a_damaged_cache_is_noticed_and_made_again(image_folder, tmp_path, damage, capsys):
    expected = load_folder(image_folder, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    result = load_folder(image_folder, tmp_path / "cache")
    assert "cannot be used, decoding again" in capsys.readouterr().err
    for part in (1, 2):
        assert torch.equal(result[part][0], expected[part][0])
        assert torch.equal(result[part][1], expected[part][1])


def break_file(root):
    (root / "test" / "light" / "2.png").write_bytes(b"not an image")


def truncate_file(root):
    path = root / "train" / "dark" / "3.png"
    path.write_bytes(path.read_bytes()[:60])


def empty_class(root):
    shutil.rmtree(root / "train" / "dark")
    (root / "train" / "dark").mkdir()


def gray_file(root):
    Image.new("L", (8, 6)).save(root / "train" / "light" / "5.png")


def only_foreign_files(root):
    empty_class(root)
    (root / "train" / "dark" / "Thumbs.db").write_bytes(b"not an image")


def stray_file(root):
    Image.new("RGB", (8, 6)).save(root / "train" / "stray.png")


def nested_folder(root):
    (root / "train" / "dark" / "more").mkdir()


def broken_link(root):
    (root / "train" / "dark" / "99.png").symlink_to("nowhere.png")


def deep_file(root):
    Image.fromarray(np.zeros((6, 8), dtype=np.uint16)).save(root / "train" / "light" / "5.png")


def large_file(root):
    Image.new("RGB", (9, 6)).save(root / "test" / "dark" / "1.png")


def remove(*parts):
    return lambda root: shutil.rmtree(root.joinpath(*parts))


@pytest.mark.parametrize(
    ("spoil", "file", "named"),
    [
        (break_file, "test/light/2.png", ["JPEG", "PNG"]),
        (only_foreign_files, "train/dark", [".jpg", ".png"]),
        (stray_file, "train/stray.png", []),
        (nested_folder, "train/dark/more", []),
        (broken_link, "train/dark/99.png", ["No such file"]),
        (deep_file, "train/light/5.png", ["I;16"]),
        (truncate_file, "train/dark/3.png", []),
        (empty_class, "train/dark", []),
        (remove("test", "light"), "test/light", ["train"]),
        (remove("train", "light"), "train/light", ["test"]),
        (remove("test"), "test", []),
        (gray_file, "train/light/5.png", ["L", "RGB", "--image-size"]),
        (large_file, "test/dark/1.png", ["9x6", "8x6", "--image-size"]),
    ],
)
def test_what_cannot_be_used_is_named(image_folder, tmp_path, spoil, file, named):
    spoil(image_folder)
    with refuses(UserError, image_folder / file, *named):
        load_folder(image_folder, tmp_path / "cache")


def test_what_programs_leave_beside_images_is_skipped_and_counted_in_one_line(image_folder, tmp_path, capsys):
    expected = load_folder(image_folder, tmp_path / "cache")
    assert capsys.readouterr().err == ""
    for name in (
        "A\nB",
        "Thumbs.db",
        "desktop.ini",
        "dark/.DS_Store",
        "dark/._0.png",
        "dark/notes.txt",
        "light/LICENSE",
    ):
        (image_folder / "train" / name).write_bytes(b"not an image")
    for name in ("__MACOSX", ".ipynb_checkpoints", "light/__MACOSX"):
        (image_folder / "test" / name).mkdir()
    (image_folder / "train" / "dark" / "0.png").rename(image_folder / "train" / "dark" / "0.PNG")
    found = load_folder(image_folder, tmp_path / "cache")
    assert_names(capsys.readouterr().err, 10, image_folder / "train" / r"A\nB")
    assert found[3] == expected[3]
    for part in (1, 2):
        assert torch.equal(found[part][0], expected[part][0])


def test_one_process_of_many_counts_what_is_skipped(image_folder, tmp_path, capsys, monkeypatch):
    (image_folder / "train" / "Thumbs.db").write_bytes(b"not an image")
    monkeypatch.setenv("RANK", "1")
    load_folder(image_folder, tmp_path / "cache")
    assert capsys.readouterr().err == ""


def test_a_pipe_called_an_image_is_refused(image_folder, no_files, tmp_path):
    path = image_folder / "train" / "dark" / "3.jpg"
    path.symlink_to(no_files["pipe"])
    with refuses(UserError, path, "a pipe"):
        load_folder(image_folder, tmp_path / "cache")


def test_a_pipe_in_place_of_the_cache_is_replaced(image_folder, no_files, tmp_path, capsys):
    load_folder(image_folder, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.unlink()
    file.symlink_to(no_files["pipe"])
    load_folder(image_folder, tmp_path / "cache")
    assert_names(capsys.readouterr().err, file, "a pipe")
    assert not file.is_symlink()


def test_file_names_need_not_be_text(image_folder, tmp_path):
    path = image_folder / "train" / "dark" / os.fsdecode(b"caf\xe9.png")
    (image_folder / "train" / "dark" / "0.png").rename(path)
    assert len(load_folder(image_folder, tmp_path / "cache")[1][0]) == 24


def test_an_image_size_makes_every_image_rgb_and_of_that_size(image_folder, tmp_path):
    gray_file(image_folder)
    large_file(image_folder)
    _, (train, _), (test, _), _ = load_folder(image_folder, tmp_path / "cache", image_size=5)
    assert train.shape == (24, 5, 5, 3)
    assert test.shape == (8, 5, 5, 3)
    assert (train[12:] == 0).flatten(1).all(1).sum() == 1  # the grey image, black
