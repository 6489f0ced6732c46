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


def late_orientation(root):
    """Write a PNG whose header does not say that it is turned: the chunk follows the pixels."""
    path, exif = root / "train" / "light" / "5.png", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    content = path.read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    path.write_bytes(content[:begin] + content[end:-12] + content[begin:end] + content[-12:])


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
        (only_foreign_files, "train/dark", [".jpg", ".png", "Thumbs.db"]),
        (stray_file, "train/stray.png", []),
        (nested_folder, "train/dark/more", []),
        (broken_link, "train/dark/99.png", ["No such file"]),
        (deep_file, "train/light/5.png", ["I;16"]),
        (truncate_file, "train/dark/3.png", []),
        (empty_class, "train/dark", []),
        (remove("test", "light"), "test/light", ["train"]),
        (remove("train", "light"), "train/light", ["test"]),
        (remove("train"), "train", ["test"]),
        (late_orientation, "train/light/5.png", ["6x8", "8x6", "--image-size"]),
    ],
)
def test_what_cannot_be_used_is_named(image_folder, tmp_path, spoil, file, named):
    spoil(image_folder)
    with refuses(UserError, image_folder / file, *named):
        load_folder(image_folder, tmp_path / "cache")


def test_all_images_that_cannot_be_read_are_named_at_once(image_folder, tmp_path):
    spoilt = [image_folder / name for name in ("train/dark/3.png", "train/light/0.png", "test/light/2.png")]
    for path in spoilt:
        path.write_bytes(path.read_bytes()[:60])
    with refuses(UserError, *spoilt, "truncated") as caught:
        load_folder(image_folder, tmp_path / "cache")
    assert str(caught.value).count(".png") == len(spoilt)
    for path in (image_folder / "train" / "light").iterdir():
        path.write_bytes(b"not an image")
    with refuses(UserError, *spoilt[:1], "3 more"):
        load_folder(image_folder, tmp_path / "cache")


def test_a_folder_around_the_folder_is_answered_with_it(image_folder, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    inner = (image_folder / "train").rename(outer / "pets")
    with refuses(UserError, f"did you mean --data {inner}"):
        load_folder(outer, tmp_path / "cache")


def test_the_commonest_kind_of_what_is_skipped_is_shown(image_folder, tmp_path, capsys):
    """A phone's photos, and not the .DS_Store beside them."""
    folder = image_folder / "train" / "dark"
    for name in (".DS_Store", "IMG_1.HEIC", "IMG_2.HEIC"):
        (folder / name).write_bytes(b"not an image")
    load_folder(image_folder, tmp_path / "cache")
    assert_names(capsys.readouterr().err, 3, folder / "IMG_1.HEIC")


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


def test_an_image_size_resizes_every_image(image_folder, tmp_path):
    large_file(image_folder)
    _, (train, _), (test, _), _ = load_folder(image_folder, tmp_path / "cache", image_size=5)
    assert train.shape == (24, 5, 5, 3)
    assert test.shape == (8, 5, 5, 3)


MODES = ("1", "L", "LA", "P", "PA", "RGBA", "CMYK")


def test_images_that_are_not_rgb_are_converted(image_folder, tmp_path):
    with Image.open(image_folder / "train" / "light" / "5.png") as image:
        for number, mode in enumerate(MODES):
            image.convert(mode).save(image_folder / "train" / "light" / f"{number}.tif")
            (image_folder / "train" / "light" / f"{number}.png").unlink()
    _, (train, labels), _, _ = load_folder(image_folder, tmp_path / "cache")
    assert train.shape == (24, 6, 8, 3)
    light = train[labels == 1]
    for number, path in enumerate(sorted((image_folder / "train" / "light").iterdir())):
        if path.suffix == ".tif":
            with Image.open(path) as image:
                expected = torch.from_numpy(np.array(image.convert("RGB")))
            assert torch.equal(light[number], expected), path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (large_file, "several sizes"),
        (lambda root: [Image.new("RGB", (257, 6)).save(path) for path in root.glob("*/*/*.png")], "more than 256"),
    ],
)
def test_photos_are_resized_and_it_is_said(image_folder, tmp_path, change, reason, capsys):
    change(image_folder)
    for _ in range(2):
        _, (train, _), (test, _), _ = load_folder(image_folder, tmp_path / "cache")
        assert_names(capsys.readouterr().err, image_folder, reason, "64x64", "--image-size")
        assert train.shape == (24, 64, 64, 3)
        assert test.shape == (8, 64, 64, 3)
    typed = load_folder(image_folder, tmp_path / "cache", image_size=64)
    assert capsys.readouterr().err == ""
    assert torch.equal(train, typed[1][0])
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_a_cache_of_large_images_is_left_alone(image_folder, tmp_path):
    """A release kept images of any one size."""
    for path in image_folder.glob("*/*/*.png"):
        Image.new("RGB", (300, 6)).save(path)
    paths = [path for part in ("train", "test") for path in sorted(image_folder.glob(f"{part}/*/*.png"))]
    key = folders._content_keys(image_folder, paths, [None])[None]
    tensors = {f"{part}_pixels": torch.zeros(1, 6, 300, 3, dtype=torch.uint8) for part in ("train", "test")}
    labels = {f"{part}_labels": torch.zeros(1, dtype=torch.int64) for part in ("train", "test")}
    content = tensors | labels
    write_cache(tmp_path / "cache" / f"{key}.safetensors", {name: content[name] for name in folders.TENSORS})
    assert load_folder(image_folder, tmp_path / "cache")[1][0].shape == (24, 64, 64, 3)


@pytest.mark.parametrize(
    ("image_size", "name"), [(None, "c0e6de4fab549da7bb846be09d838ac7"), (5, "923885080d165b12051374db152ff7c3")]
)
def test_the_cache_of_a_folder_keeps_its_name(tmp_path, image_size, name):
    """Otherwise every folder is decoded again after an update."""
    for part in ("train", "test"):
        (tmp_path / "dots" / part / "a").mkdir(parents=True)
        (tmp_path / "dots" / part / "a" / "0.ppm").write_bytes(b"P6 1 1 255\n\1\2\3")
    for _ in range(2):
        load_folder(tmp_path / "dots", tmp_path / "cache", image_size)
        assert (tmp_path / "cache" / f"{name}.safetensors").exists()


def test_sizes_are_read_once(image_folder, tmp_path, monkeypatch):
    """Not at every start, for a folder of many thousand images."""
    load_folder(image_folder, tmp_path / "cache")
    monkeypatch.delattr(folders, "read_size")
    load_folder(image_folder, tmp_path / "cache")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_imagenets_layout_is_taken(image_folder, tmp_path, name):
    expected = load_folder(image_folder, tmp_path / "cache")
    (image_folder / "test").rename(image_folder / name)
    found = load_folder(image_folder, tmp_path / "cache")
    for part in (1, 2):
        assert torch.equal(found[part][0], expected[part][0])
        assert torch.equal(found[part][1], expected[part][1])


def test_a_folder_called_test_comes_before_one_called_val(image_folder, tmp_path):
    shutil.copytree(image_folder / "train", image_folder / "val")
    assert len(load_folder(image_folder, tmp_path / "cache")[2][0]) == 8


def without_train(root):
    for folder in (root / "train").iterdir():
        folder.rename(root / folder.name)
    (root / "train").rmdir()


@pytest.mark.parametrize("move", [lambda _: None, without_train])
def test_a_fifth_of_each_class_is_split_off(image_folder, tmp_path, move, capsys):
    shutil.rmtree(image_folder / "test")
    for number in range(2, 12):
        (image_folder / "train" / "light" / f"{number}.png").unlink()
    everything = [
        torch.from_numpy(np.array(Image.open(path))) for path in sorted((image_folder / "train").glob("*/*.png"))
    ]
    move(image_folder)
    _, (train, train_labels), (test, test_labels), classes = load_folder(image_folder, tmp_path / "cache")
    assert classes == ["dark", "light"]
    assert torch.bincount(train_labels).tolist() == [10, 1]  # of 12 and 2
    assert torch.bincount(test_labels).tolist() == [2, 1]
    assert_names(capsys.readouterr().err, "2 classes", "11 for training", "3 for testing")
    found = torch.cat([train, test]).flatten(1)
    for image in everything:
        assert (found == image.flatten()).all(1).sum() == 1
    again = load_folder(image_folder, tmp_path / "other")
    assert torch.equal(again[2][0], test)


def test_a_class_of_one_image_cannot_be_split(image_folder, tmp_path):
    shutil.rmtree(image_folder / "test")
    for number in range(1, 12):
        (image_folder / "train" / "light" / f"{number}.png").unlink()
    with refuses(UserError, image_folder / "train" / "light", "1 image"):
        load_folder(image_folder, tmp_path / "cache")


def test_a_class_may_be_called_train(image_folder, tmp_path):
    shutil.rmtree(image_folder / "test")
    without_train(image_folder)
    (image_folder / "dark").rename(image_folder / "train")
    assert load_folder(image_folder, tmp_path / "cache")[3] == ["light", "train"]


@pytest.mark.parametrize("flat", [["train"], ["train", "test"]])
def test_images_without_classes_are_no_classes(tmp_path, flat):
    for part in flat:
        (tmp_path / "flat" / part).mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "flat" / part / "0.png")
    with refuses(UserError, tmp_path / "flat" / "train" / "0.png", "class folder"):
        load_folder(tmp_path / "flat", tmp_path / "cache")


def test_a_folder_that_is_not_there_is_answered_with_a_near_one(image_folder, tmp_path):
    with refuses(UserError, tmp_path / "shads", repr(str(image_folder))):
        load_folder(tmp_path / "shads", tmp_path / "cache")
