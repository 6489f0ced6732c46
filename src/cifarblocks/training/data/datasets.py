"""Data sets of small images, as uint8 tensors: the digits, the sets that torchvision reads, folders of images."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.nn.functional as F
from einops import repeat
from safetensors.torch import load_file
from torch import Tensor

from cifarblocks.training.data.sources import TORCHVISION, find_source
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import check_memory

PACKAGES = {"PIL": "pillow", "torchvision": "cifarblocks[train]"}  # what to install, where it has another name
DIGITS = Path(__file__).with_name("digits.safetensors")


@dataclass(frozen=True, repr=False)
class Images:
    """Images and their labels.

    Attributes:
        pixels: (n, h, w, 3) uint8.
        labels: (n,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def __repr__(self) -> str:
        return f"Images(pixels {tuple(self.pixels.shape)}, labels {tuple(self.labels.shape)})"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> "Images":
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Images":
        """Return the same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, repr=False)
class DataSet:
    """Training and test images, the names of the classes, and a flag: a mirrored image keeps its class."""

    name: str
    train: Images
    test: Images
    classes: list[str]
    mirror: bool

    def __repr__(self) -> str:
        height, width = self.image_size
        counts = f"{len(self.train):,} training and {len(self.test):,} test images of {height}x{width}"
        return f"DataSet({self.name}, {counts}, {len(self.classes)} classes)"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every image."""
        height, width = self.train.pixels.shape[1:3]
        return height, width

    @cached_property
    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over all training images, in units of 0 to 1."""
        n = self.train.pixels[..., 0].numel()
        means, deviations = [], []
        for channel in self.train.pixels.unbind(-1):
            # In whole numbers, so that every processor gets the same bits and a run can be resumed on another machine.
            counts = list(enumerate(torch.bincount(channel.flatten().int()).tolist()))
            total = sum(value * count for value, count in counts)
            squares = sum(value**2 * count for value, count in counts)
            means.append(total / n / 255)
            deviations.append(max(math.sqrt(n * squares - total**2) / n, 1) / 255)
        return means, deviations

    @cached_property
    def is_grey(self) -> bool:
        """True if every pixel has one value in all channels."""
        parts = (self.train.pixels, self.test.pixels)
        return all(torch.equal(pixels, pixels[..., :1].expand_as(pixels)) for pixels in parts)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of every pixel and label, the same wherever the set was read."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(part.pixels.contiguous().numpy().data)
            digest.update(part.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def load_data(source: str, directory: Path, image_size: int | None = None) -> DataSet:
    """Read a data set.

    Args:
        source: A name of a data set, or the path of a folder.
        directory: Folder of the data sets, of downloads, and of the cache of decoded folders.
        image_size: Height and width that every image is resized to. Default: as `load_folder` says; those of data sets
            stay as they are.

    Raises:
        UserError: If there is no such source, or its files cannot be used.
    """
    source = find_source(source)
    path = source.removeprefix("folder:")
    try:
        if path != source:
            from cifarblocks.training.data.folders import load_folder  # here: it needs Pillow

            name, train, test, classes = load_folder(Path(path), directory / "cache", image_size)
            return DataSet(name, Images(*train), Images(*test), classes, mirror=True)
        if source == "digits":
            return resized(load_digits(), image_size)
        return resized(load_torchvision(source, directory), image_size)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name), error.name)
        raise UserError(f"--data {source} needs {error.name}: pip install {package!r}") from error
    except OSError as error:
        raise UserError(f"--data {source}, --data-dir {directory}: {error.filename}: {error.strerror}") from error


def resized(data: DataSet, image_size: int | None) -> DataSet:
    """Resize every image bilinearly; None leaves them as they are."""
    if image_size is None:
        return data

    size = (image_size, image_size)

    def part(images: Images) -> Images:
        maps = F.interpolate(images.pixels.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)  # uint8 too
        return Images(maps.permute(0, 2, 3, 1).contiguous(), images.labels)

    check_memory(len(data.train) + len(data.test), *size, f"--image-size {image_size}")
    return replace(data, train=part(data.train), test=part(data.test))


def load_digits() -> DataSet:
    """Load the scanned digits of the package, enlarged from 8×8 to 32×32, the grey value in each channel."""
    tensors = load_file(DIGITS)

    def part(name: str) -> Images:
        grey = tensors[f"{name}_images"].unsqueeze(1).float() * 255 / 16
        large = F.interpolate(grey, size=(32, 32), mode="bilinear").round().to(torch.uint8)
        return Images(large.permute(0, 2, 3, 1).repeat(1, 1, 1, 3), tensors[f"{name}_labels"])

    classes = [str(digit) for digit in range(10)]
    return DataSet("digits (UCI, 8x8)", part("train"), part("test"), classes, mirror=False)


def load_torchvision(source: str, directory: Path) -> DataSet:
    """Load one of the data sets of `TORCHVISION` from its original files, downloaded where they are missing.

    A grey image has its grey value in each channel.

    Raises:
        UserError: If files are missing and cannot be downloaded.
        ModuleNotFoundError: If a package is missing.
    """
    from torchvision import datasets

    published = TORCHVISION[source]
    reader, files = getattr(datasets, published.reader), [directory / file for file in published.files]
    for path in (*files, *(file.with_suffix("") for file in files)):  # .gz, and the unpacked file
        if path.exists() and not path.is_file():  # torchvision would open it to write
            raise UserError(f"--data {source}: {path} is not a file; remove it")
    try:
        if published.needs:
            import_module(published.needs)
        parts = [reader(directory, download=True, **arguments) for arguments in published.parts]
    except (URLError, OSError, RuntimeError, ValueError, AssertionError) as error:
        reason, names = " ".join(str(error).split()), ", ".join(file.name for file in files)
        raise UserError(
            f"--data {source}: {published.title} is not whole in {directory} and could not be downloaded ({reason}); "
            f"put {names} of {published.url} in {files[0].parent}"
        ) from error

    def images(part: Any) -> Images:
        pixels = repeat(torch.as_tensor(part.data), f"{published.layout} -> n h w c", c=3)
        return Images(pixels.contiguous(), torch.as_tensor(getattr(part, published.labels)).long())

    train, test = map(images, parts)
    return DataSet(published.title, train, test, list(published.classes or parts[0].classes), published.mirror)


def count_held_out(images: int) -> int:
    """Return the number of validation images to hold out of the training images: 5,000, or a tenth of a small set."""
    return min(5000, images // 10)


def hold_out(images: Images, generator: torch.Generator) -> tuple[Images, Images]:
    """Split images into training images and validation images."""
    held_out = drawn(images.labels, count_held_out(len(images)), generator)
    return images[~held_out], images[held_out]


def share_of(images: Images, share: float, generator: torch.Generator) -> Images:
    """Draw a share of the images, the same of each class up to one image."""
    return images if share == 1 else images[drawn(images.labels, round(share * len(images)), generator)]


def drawn(labels: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Draw a number of images, the same share of each class up to one image: (n,), true for the images drawn."""
    order = torch.randperm(len(labels), generator=generator)
    # Walk through the classes, each in random order: every (n / wanted)-th image on that walk is drawn.
    walk = order[torch.argsort(labels[order], stable=True)]
    places = (torch.arange(wanted) * len(labels) + len(labels) // 2).div(max(wanted, 1), rounding_mode="floor")
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[walk[places]] = True
    return mask
