"""Sources of `--data`: the scanned digits, a data set that torchvision reads, or a folder of images."""

import os
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cifarblocks.training.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set that torchvision downloads and reads.

    Attributes:
        title: Its name in records.
        reader: Name of the class in torchvision.datasets.
        parts: Arguments of the reader for the training part and the test part.
        layout: Axes of the pixels, as einops has them.
        labels: Attribute of the reader with the labels.
        classes: Names of the classes; None for those that the reader has.
        mirror: True if a mirrored image keeps its class.
        url: Address of the files.
        files: Paths of the downloaded files from --data-dir.
        needs: Further package that reads the files.
    """

    title: str
    reader: str
    parts: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
    layout: str
    labels: str = "targets"
    classes: tuple[str, ...] | None = None
    mirror: bool = True
    url: str
    files: tuple[str, ...]
    needs: str | None = None


SPLITS = ({"split": "train"}, {"split": "test"})
DIGITS = tuple("0123456789")
UBYTES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
TORCHVISION = {
    "cifar10": Published(
        title="CIFAR-10",
        reader="CIFAR10",
        layout="n h w c",
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-10-python.tar.gz",),
    ),
    "cifar100": Published(
        title="CIFAR-100",
        reader="CIFAR100",
        layout="n h w c",
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-100-python.tar.gz",),
    ),
    "mnist": Published(
        title="MNIST",
        reader="MNIST",
        layout="n h w",
        classes=DIGITS,
        mirror=False,
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=tuple(f"MNIST/raw/{name}" for name in UBYTES),
    ),
    "fashion_mnist": Published(
        title="Fashion-MNIST",
        reader="FashionMNIST",
        layout="n h w",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=tuple(f"FashionMNIST/raw/{name}" for name in UBYTES),
    ),
    "svhn": Published(
        title="SVHN",
        reader="SVHN",
        parts=SPLITS,
        layout="n c h w",
        labels="labels",
        classes=DIGITS,
        mirror=False,
        url="http://ufldl.stanford.edu/housenumbers/",
        files=("train_32x32.mat", "test_32x32.mat"),
        needs="scipy",
    ),
    "stl10": Published(
        title="STL-10",
        reader="STL10",
        parts=SPLITS,
        layout="n c h w",
        labels="labels",
        url="http://ai.stanford.edu/~acoates/stl10/",
        files=("stl10_binary.tar.gz",),
    ),
}
NAMES = ("digits", *TORCHVISION)
SOURCES = f"{', '.join(NAMES)} or the path of a folder"


def find_source(text: str) -> str:
    """Return the name of a data set, or folder:PATH for a folder that exists.

    A name wins over a folder of that name.

    Args:
        text: Value of `--data`.

    Raises:
        UserError: If it is neither; the message suggests near names.

    >>> find_source("digits"), find_source("folder:flowers")
    ('digits', 'folder:flowers')
    """
    kind, _, path = text.partition(":")
    if text in NAMES or (kind == "folder" and path):
        return text
    if os.path.isdir(text):
        return f"folder:{Path(text)}"
    raise UserError(f"--data must be {SOURCES}, got {text!r}{near_names(text, NAMES)}")


def near_names(text: str, names: tuple[str, ...] = ()) -> str:
    """Return a suggestion of similar names, and of similar folders next to the path; empty if there are none."""
    beside: list[str] = []
    parent = Path(text).parent
    with suppress(OSError, ValueError):
        beside = [str(parent / entry.name) for entry in os.scandir(parent) if entry.is_dir()]
    near = get_close_matches(text, [*names, *beside], n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
