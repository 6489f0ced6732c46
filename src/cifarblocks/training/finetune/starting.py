"""First weights from a file: those of an earlier run, or what timm or torchvision published."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

import cifarblocks
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.errors import UserError, first_line
from cifarblocks.training.finetune.resizing import load_resized
from cifarblocks.training.models import build_model
from cifarblocks.training.run_folder.weights import Card, read_weights

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Start:
    """The weights that a network starts from.

    Attributes:
        path: of the file.
        digest: a hash of its content.
        tensors: by the names that they have there.
        source: the library that published them; None for a run of cifarblocks train.
        card: what the file says of itself, where a run wrote it.
    """

    path: Path
    digest: str
    tensors: dict[str, Tensor]
    source: str | None
    card: Card | None

    def arguments(self) -> list[str]:
        """What one would type for cifarblocks train to build the same network and to normalise images as it knows them.

        Published weights do not say how: ImageNet's mean and standard deviation are the rule.
        """
        mean = self.card.mean if self.card else IMAGENET_MEAN
        std = self.card.std if self.card else IMAGENET_STD
        arguments = ["--mean", *map(repr, mean), "--std", *map(repr, std)]
        if self.card:
            for name, value in self.card.arguments.items():
                if name in ("drop_path", "dropout"):
                    arguments += [f"--{name.replace('_', '-')}={value}"]
                elif name not in ("num_classes", "image_size"):
                    arguments += ["--model-argument", f"{name}={value!r}"]
        return arguments

    def build(self, name: str, given: dict[str, Any], data: DataSet) -> tuple[nn.Module, dict[str, Any]]:
        """Return the classifier for some data with these weights, and the arguments that it was built with.

        The last layer is kept where the file names the same classes, and new where it does not. Positions and tables
        made for images of another size are resized.

        Raises:
            UserError: if a tensor is missing, left over or of another shape; it names the first.
        """
        model, arguments = build_model(name, given, len(data.classes), data.image_size)
        try:
            if self.card:
                load_resized(model, self.tensors, self.card.image_size, keep_classifier=self.keeps_classifier(data))
            else:
                cifarblocks.load_published(model, self.tensors, str(self.source), new_classifier=True)
        except ValueError as error:
            raise UserError(f"--weights {self.path} does not fit {name}: {first_line(error)}") from error
        return model, arguments

    def keeps_classifier(self, data: DataSet) -> bool:
        """Whether the last layer is for the classes of these data, in their order."""
        return self.card is not None and self.card.classes == data.classes

    def describe(self, data: DataSet) -> str:
        """What a run starts from, for people."""
        where = f"weights of {self.source}"
        if self.card:
            height, width = self.card.image_size
            where = f"{self.card.data}, {height}x{width}, {len(self.card.classes)} classes"
        last = "the last layer of the same classes" if self.keeps_classifier(data) else "a new last layer"
        return f"starting from {self.path} ({where}) with {last} for {len(data.classes)} classes"


def read_start(path: Path, source: str | None = None) -> Start:
    """Read the weights to start from.

    Args:
        path: a safetensors file, or for a source a state dict that `torch.load` reads too.
        source: the library that published them, timm or torchvision; None if cifarblocks train wrote them.

    Raises:
        UserError: if the file cannot be read, or is not what it should be.
    """
    try:
        content, card = path.read_bytes(), None
        if source is None:
            tensors, card = read_weights(path)
        elif path.suffix == ".safetensors":
            tensors = load(content)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, ValueError, TypeError, RuntimeError, LookupError) as error:
        what = f"weights of {source}" if source else "weights that cifarblocks train wrote"
        raise UserError(f"--weights {path} cannot be used as {what}: {first_line(error)}") from error
    if not isinstance(tensors, dict):
        raise UserError(f"--weights {path} must hold a state dict, got {type(tensors).__name__}")
    return Start(path, hashlib.sha256(content).hexdigest()[:16], tensors, source, card)
