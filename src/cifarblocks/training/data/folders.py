"""A folder of image files, train/<class>/* and test/<class>/*, decoded once and cached by content."""

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cifarblocks.checkpoints.files import reading
from cifarblocks.checkpoints.images import pixels_of, read_image, resize_rgb
from cifarblocks.training.data.cache import read_cache, write_cache
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import check_memory
from cifarblocks.training.output import escaped

Part = tuple[Tensor, Tensor]  # (n, h, w, 3) uint8 pixels, (n,) int64 labels
TENSORS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def load_folder(root: Path, cache: Path, image_size: int | None = None) -> tuple[str, Part, Part, list[str]]:
    """Read train/ and test/ under `root`: the folder's name, the training part, the test part, the class names.

    Args:
        root: the folder; a class is a folder in train/ and in test/, whatever files are in it are its images.
        cache: where the decoded images are kept, under a name made of every file's path and content.
        image_size: make every image RGB and of this height and width; without it they must be so already.

    Raises:
        UserError: if a folder or class is missing or empty, or a file is not a usable image; it names the file.
    """
    classes, files = _list_files(root)
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


def _list_files(root: Path) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
    names = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise UserError(f"--data folder:{root} must have a folder {root / part}, and it is not there")
        for entry in _visible(root / part):
            if not entry.is_dir():
                raise UserError(f"{entry} is not in a class folder")
        names[part] = [entry.name for entry in _visible(root / part)]
        if not names[part]:
            raise UserError(f"{root / part} has no class folders")
    for part, other in (("train", "test"), ("test", "train")):
        for name in sorted(set(names[part]) - set(names[other])):
            raise UserError(f"class {name!r} is in {root / part} but {root / other / name} is missing")
    classes = names["train"]
    files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for part, listed in files.items():
        for label, name in enumerate(classes):
            entries = _visible(root / part / name)
            if not entries:
                raise UserError(f"class folder {root / part / name} is empty")
            for entry in entries:
                if entry.is_dir():
                    raise UserError(f"{entry} is a folder inside a class folder, where only images may be")
                listed.append((entry, label))
    return classes, files


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


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
