"""A folder of image files, a folder for each class, decoded once and cached by content."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from cifarblocks.checkpoints.files import first_line, reading
from cifarblocks.checkpoints.images import (
    SUFFIXES,
    is_hidden,
    is_named_as_image,
    pixels_of,
    read_image,
    read_size,
    resize_rgb,
)
from cifarblocks.training.data.cache import read_cache, write_cache
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.data.sources import near_names
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import check_memory
from cifarblocks.training.output import escaped, is_first, one_line, progress

Part = tuple[Tensor, Tensor]  # (n, h, w, 3) uint8 pixels, (n,) int64 labels
Files = dict[str, list[tuple[Path, int]]]  # image files of train and test with their labels
TENSORS = ("train_pixels", "train_labels", "test_pixels", "test_labels")
TEST = ("test", "val", "valid", "validation")  # names of the folder to test with; the first that is there is taken
TEST_SHARE = 5  # one image in this many is for testing if there is no such folder
RESIZED = 64  # height and width that images of several sizes, or larger than LARGEST, are resized to
LARGEST = 256
NAMED = 10  # of the images that cannot be read


def load_folder(root: Path, cache: Path, image_size: int | None = None) -> tuple[str, Part, Part, list[str]]:
    """Read the images under `root`: the folder's name, the training part, the test part, the class names.

    A class is a folder in `root`/train and in `root`/test, or in one of the other names of `TEST`. Without such a
    folder, a fifth of each class is split off for testing, the same at every call. Without `root`/train the classes are
    the folders in `root`. Hidden files and files not named as images are skipped. Lines on stderr report the files
    skipped, the split and the resizing.

    Args:
        root: The folder.
        cache: Folder of the decoded images, in a file named by a hash of every path and content.
        image_size: Height and width of every image. Default: their own; 64 if they have several sizes, or a side of
            more than 256.

    Raises:
        UserError: If a folder or class is missing or empty, or a file is not a usable image; it names the file.
    """
    skipped: list[Path] = []
    classes, files = _list_files(root, skipped)
    if skipped:
        what = f"{len(skipped):,} files or folders that are hidden or not named as images"
        ((commonest, _),) = Counter(path.suffix.lower() for path in skipped).most_common(1)
        shown = next(path for path in skipped if path.suffix.lower() == commonest)
        _tell(f"{root}: skipped {what}, such as {shown}")
    try:
        tensors = _read_tensors(root, files, cache, image_size)
    except ValueError as error:
        raise UserError(_name_unreadable(files, first_line(error))) from error
    train, test = ((tensors[f"{part}_pixels"], tensors[f"{part}_labels"]) for part in ("train", "test"))
    return escaped(root.resolve().name), train, test, [escaped(name) for name in classes]


def _name_unreadable(files: Files, first: str) -> str:
    """Return why an image cannot be used, and name the other unreadable images, so that all can be mended at once."""
    others = []
    for path, _ in progress(files["train"] + files["test"], "reading", "image"):
        try:
            read_image(path)
        except ValueError:
            others += [] if first.startswith(f"{path} ") else [str(path)]
    named = [*others[:NAMED], *([f"{len(others) - NAMED:,} more"] if len(others) > NAMED else [])]
    return first + (f"; nor can {', '.join(named)}" if others else "")


def _tell(sentence: str) -> None:
    if is_first():
        print(one_line(sentence), file=sys.stderr)


def _list_files(root: Path, skipped: list[Path]) -> tuple[list[str], Files]:
    """Return the classes and the image files of each part; add all other files to `skipped`."""
    train, test = _find_parts(root)
    classes = _list_classes(train, skipped)
    if test is not None:
        tested = _list_classes(test, skipped)
        for folder, own, other, others in ((train, classes, test, tested), (test, tested, train, classes)):
            for name in sorted(set(own) - set(others)):
                raise UserError(f"class {name!r} is in {folder} but {other / name} is missing")
    images = [_list_images(train / name, skipped) for name in classes]
    if test is not None:
        parts = {"train": images, "test": [_list_images(test / name, skipped) for name in classes]}
    else:
        split = [_split(train / name, paths) for name, paths in zip(classes, images, strict=True)]
        parts = {"train": [kept for kept, _ in split], "test": [out for _, out in split]}
        counts = [f"{sum(map(len, paths)):,} for {part}ing" for part, paths in parts.items()]
        of = f"{len(classes):,} class{'es' * (len(classes) != 1)}"
        _tell(f"{root}: images of {of}, {' and '.join(counts)}, a fifth of each class")
    return classes, {
        part: [(path, label) for label, paths in enumerate(listed) for path in paths] for part, listed in parts.items()
    }


def _find_parts(root: Path) -> tuple[Path, Path | None]:
    """Return the folder of the training classes and that of the test classes, or None to split the first.

    A folder "train" that holds images and has siblings is a class.
    """
    if not os.path.isdir(root):  # Path.is_dir raises an OSError for a name that is too long
        raise UserError(f"--data folder:{root}: there is no such folder{near_names(str(root))}")
    names, parts = _folder_names(root), {"train", *TEST}
    tests = [root / name for name in TEST if name in names]
    if "train" in names and (names <= parts or _folder_names(root / "train")):
        return root / "train", tests[0] if tests else None
    if tests and names <= parts:
        raise UserError(f"--data folder:{root} needs a folder {root / 'train'} next to {tests[0]}")
    return root, None


def _folder_names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry)}


def _split(folder: Path, images: list[Path]) -> tuple[list[Path], list[Path]]:
    """Split the images of a class into training and test images, independent of the run's seed."""
    if len(images) < 2:
        raise UserError(f"class folder {folder} has 1 image and needs 2, one for training and one for testing")
    order = torch.randperm(len(images), generator=random_stream("test images", folder.name))
    tested = set(order[: max(1, round(len(images) / TEST_SHARE))].tolist())
    return (
        [path for number, path in enumerate(images) if number not in tested],
        [path for number, path in enumerate(images) if number in tested],
    )


def _list_classes(folder: Path, skipped: list[Path]) -> list[str]:
    entries = _list_entries(folder, skipped)
    for entry in entries:
        if not entry.is_dir():
            raise UserError(f"{entry} is not in a class folder: {folder} must have a folder for each class")
    if not entries:
        raise UserError(f"{folder} has no class folders")
    return [entry.name for entry in entries]


def _list_images(folder: Path, skipped: list[Path]) -> list[Path]:
    before = len(skipped)
    entries = _list_entries(folder, skipped)
    if not entries:
        has = f"{skipped[before].name} but no images" if len(skipped) > before else "no images"
        raise UserError(f"class folder {folder} has {has}; those are files named {', '.join(SUFFIXES)}")
    for entry in entries:
        if entry.is_dir():
            hint = f"; did you mean --data {folder}?" if all(map(Path.is_dir, entries)) else ""
            raise UserError(f"{entry} is a folder inside a class folder, where only images may be{hint}")
    return entries


def _list_entries(folder: Path, skipped: list[Path]) -> list[Path]:
    """Return the folders and the files named as images; add all other files to `skipped`."""
    kept: list[Path] = []
    for entry in sorted(folder.iterdir()):
        (kept if not is_hidden(entry) and (is_named_as_image(entry) or entry.is_dir()) else skipped).append(entry)
    return kept


def _read_tensors(root: Path, files: Files, cache: Path, image_size: int | None) -> dict[str, Tensor]:
    """Return the images of each part and their labels, from the cache where they are there."""
    paths = [path for path, _ in files["train"] + files["test"]]
    sizes = (None, RESIZED) if image_size is None else (image_size,)
    caches = {size: cache / f"{key}.safetensors" for size, key in _content_keys(root, paths, sizes).items()}
    tensors = read_cache(caches[image_size], TENSORS, "decoding")
    if image_size is None and (tensors is None or max(tensors["train_pixels"].shape[1:3]) > LARGEST):
        tensors = None
        if reason := _reason_to_resize(paths):
            _tell(f"{root}: {reason}, so all are resized to {RESIZED}x{RESIZED}; --image-size N takes another size")
            image_size = RESIZED
            tensors = read_cache(caches[image_size], TENSORS, "decoding")
    if tensors is None:
        tensors = {}
        for part, listed in files.items():
            pixels = _decode([file for file, _ in listed], image_size, expected=tensors.get("train_pixels"))
            tensors |= {f"{part}_pixels": pixels, f"{part}_labels": torch.tensor([label for _, label in listed])}
        write_cache(caches[image_size], tensors)
    return tensors


def _content_keys(root: Path, files: list[Path], sizes: Collection[int | None]) -> dict[int | None, str]:
    """Return a hash of paths and contents of some files for each of the sizes that images may be resized to."""
    digests = {size: hashlib.sha256(json.dumps(["cifarblocks folder 1", size]).encode()) for size in sizes}
    for path in progress(files, "reading", "file"):
        with reading(path, "read"):
            content = path.read_bytes()
        for digest in digests.values():
            digest.update(os.fsencode(path.relative_to(root)) + f"\0{len(content)}\0".encode())
            digest.update(content)
    return {size: digest.hexdigest()[:32] for size, digest in digests.items()}


def _reason_to_resize(files: list[Path]) -> str:
    """Return why images cannot keep their size; empty if they can."""
    sizes = set()
    for path in progress(files, "reading sizes", "file"):
        sizes.add(size := read_size(path))
        if max(size) > LARGEST:
            return f"images have sides of more than {LARGEST} pixels"
        if len(sizes) > 1:
            return "images have several sizes"
    return ""


def _decode(files: list[Path], image_size: int | None, expected: Tensor | None) -> Tensor:
    pixels: Tensor | None = None
    shape = None if expected is None else expected.shape[1:]
    for number, path in enumerate(progress(files, "decoding", "image")):
        image = read_image(path)
        size = (image_size, image_size) if image_size else (image.height, image.width)
        array = pixels_of(resize_rgb(image, size))
        if shape is None:
            shape = array.shape
        if array.shape != shape:
            raise UserError(
                f"{path} is {array.shape[1]}x{array.shape[0]} pixels where the images before it are "
                f"{shape[1]}x{shape[0]}; --image-size N resizes every image of a folder"
            )
        if pixels is None:
            option = f"--image-size {image_size}" if image_size else "--data folder"
            check_memory(len(files), shape[0], shape[1], option)
            pixels = torch.empty(len(files), *shape, dtype=torch.uint8)
        pixels[number] = array
    assert pixels is not None
    return pixels
