"""A folder of image files, train/<class>/* and test/<class>/*, decoded once and cached by content."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cifarblocks.checkpoints.files import reading
from cifarblocks.checkpoints.images import SUFFIXES, pixels_of, read_image, resize_rgb
from cifarblocks.training.data.cache import read_cache, write_cache
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import check_memory
from cifarblocks.training.output import escaped, is_first, one_line

Part = tuple[Tensor, Tensor]  # (n, h, w, 3) uint8 pixels, (n,) int64 labels
TENSORS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def load_folder(root: Path, cache: Path, image_size: int | None = None) -> tuple[str, Part, Part, list[str]]:
    """Read train/ and test/ under `root`: the folder's name, the training part, the test part, the class names.

    What is hidden or is no image by its name is left out, and counted in a line on stderr.

    Args:
        root: the folder; a class is a folder in train/ and in test/.
        cache: where the decoded images are kept, under a name made of every file's path and content.
        image_size: make every image RGB and of this height and width; without it they must be so already.

    Raises:
        UserError: if a folder or class is missing or empty, or a file is not a usable image; it names the file.
    """
    classes, files, skipped = _list_files(root)
    if skipped and is_first():
        what = f"{len(skipped):,} files or folders that are hidden or not named as images"
        print(one_line(f"{root}: skipped {what}; the first is {skipped[0]}"), file=sys.stderr)
    try:
        key = _content_key(root, [path for path, _ in files["train"] + files["test"]], image_size)
        path = cache / f"{key}.safetensors"
        tensors = read_cache(path, TENSORS, "decoding")
        if tensors is None:
            tensors = {}
            for part, listed in files.items():
                pixels = _decode([file for file, _ in listed], image_size, expected=tensors.get("train_pixels"))
                tensors |= {f"{part}_pixels": pixels, f"{part}_labels": torch.tensor([label for _, label in listed])}
            write_cache(path, tensors)
    except ValueError as error:
        raise UserError(str(error)) from error
    train, test = ((tensors[f"{part}_pixels"], tensors[f"{part}_labels"]) for part in ("train", "test"))
    return escaped(root.resolve().name), train, test, [escaped(name) for name in classes]


def _list_files(root: Path) -> tuple[list[str], dict[str, list[tuple[Path, int]]], list[Path]]:
    """Return the classes, the image files of each part with their labels, and what is neither."""
    skipped: list[Path] = []
    names = {part: _list_classes(root, part, skipped) for part in ("train", "test")}
    for part, other in (("train", "test"), ("test", "train")):
        for name in sorted(set(names[part]) - set(names[other])):
            raise UserError(f"class {name!r} is in {root / part} but {root / other / name} is missing")
    classes = names["train"]
    files = {
        part: [
            (path, label) for label, name in enumerate(classes) for path in _list_images(root / part / name, skipped)
        ]
        for part in names
    }
    return classes, files, skipped


def _list_classes(root: Path, part: str, skipped: list[Path]) -> list[str]:
    if not (root / part).is_dir():
        raise UserError(f"--data folder:{root} must have a folder {root / part}, and it is not there")
    entries = _list_entries(root / part, skipped)
    for entry in entries:
        if not entry.is_dir():
            raise UserError(f"{entry} is not in a class folder")
    if not entries:
        raise UserError(f"{root / part} has no class folders")
    return [entry.name for entry in entries]


def _list_images(folder: Path, skipped: list[Path]) -> list[Path]:
    entries = _list_entries(folder, skipped)
    if not entries:
        raise UserError(f"class folder {folder} has no images: files named {', '.join(SUFFIXES)}")
    for entry in entries:
        if entry.is_dir():
            raise UserError(f"{entry} is a folder inside a class folder, where only images may be")
    return entries


def _list_entries(folder: Path, skipped: list[Path]) -> list[Path]:
    """Return the folders and the files named as images; add to `skipped` what else is there."""
    kept: list[Path] = []
    for entry in sorted(folder.iterdir()):
        (kept if _is_class_or_image(entry) else skipped).append(entry)
    return kept


def _is_class_or_image(entry: Path) -> bool:
    """Return False for what programs leave beside images, such as Thumbs.db, by its name."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return False
    return entry.suffix.lower() in SUFFIXES or entry.is_dir()


def _content_key(root: Path, files: list[Path], image_size: int | None) -> str:
    digest = hashlib.sha256(json.dumps(["cifarblocks folder 1", image_size]).encode())
    for path in tqdm(files, desc="reading", unit="file", disable=None, leave=False):
        with reading(path, "read"):
            content = path.read_bytes()
        digest.update(os.fsencode(path.relative_to(root)) + f"\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _decode(files: list[Path], image_size: int | None, expected: Tensor | None) -> Tensor:
    pixels: Tensor | None = None
    shape = None if expected is None else expected.shape[1:]
    for number, path in enumerate(tqdm(files, desc="decoding", unit="image", disable=None, leave=False)):
        image = read_image(path)
        if image_size is not None:
            image = resize_rgb(image, (image_size, image_size))
        if image.mode != "RGB":
            raise UserError(
                f"{path} is not an RGB image but of mode {image.mode}; --image-size N converts every image of a folder"
            )
        array = pixels_of(image)
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
