"""First weights from a file: of an earlier run, or published by timm or torchvision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cifarblocks.checkpoints.files import file_digest
from cifarblocks.checkpoints.own import Card, floating_type, read_weights
from cifarblocks.checkpoints.published import load_published, read_published
from cifarblocks.checkpoints.resizing import fitting
from cifarblocks.models.classifier import Classifier
from cifarblocks.pretrained import find_weights
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.errors import UserError, refusing
from cifarblocks.training.models import build_model

# Mean and standard deviation that the networks of a source were trained with.
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CIFAR = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
NORMALISATIONS = {"timm": IMAGENET, "torchvision": IMAGENET, "chenyaofo": CIFAR, "kuangliu": CIFAR}


@dataclass(frozen=True)
class Start:
    """The weights that a network starts from.

    Attributes:
        path: Path of the file, or its name in the package.
        digest: Hash of its content.
        tensors: Tensors by their names in the file.
        source: The source that published them; None for a run of cifarblocks train.
        card: The file's card, if a run wrote it.
    """

    path: Path
    digest: str
    tensors: dict[str, Tensor]
    source: str | None
    card: Card | None

    def arguments(self) -> list[str]:
        """Return the options that build the same network with the same normalisation.

        Published weights do not record a normalisation, so they get the mean and standard deviation of their source.
        """
        mean, std = (self.card.mean, self.card.std) if self.card else NORMALISATIONS[str(self.source)]
        thrice = 3 // len(mean)  # one number for grey images
        arguments = ["--mean", *map(repr, mean * thrice), "--std", *map(repr, std * thrice)]
        if self.card:
            for name, value in self.card.arguments.items():
                if name in ("drop_path", "dropout"):
                    arguments += [f"--{name.replace('_', '-')}={value}"]
                elif name not in ("num_classes", "image_size"):
                    arguments += ["--model-argument", f"{name}={value!r}"]
        return arguments

    def build(self, name: str, given: dict[str, Any], data: DataSet) -> tuple[Classifier, dict[str, Any]]:
        """Return the classifier for some data with these weights, and the arguments that it was built with.

        The last layer is kept if the file names the same classes, and new otherwise. Position embeddings and biases for
        images of another size are resized.

        Raises:
            UserError: If a tensor is missing, left over, of another shape or not finite; it names the first.
        """
        model, arguments = build_model(name, given, data)
        with refusing(f"--weights {self.path} does not fit {name}: "):
            if self.card:
                new = not self.keeps_classifier(data)
                model.to(floating_type(self.tensors))
                model.load_state_dict(fitting(model, self.tensors, self.card.image_size, new_classifier=new))
            else:
                load_published(model, self.tensors, str(self.source), new_classifier=True)
        return model, arguments

    def keeps_classifier(self, data: DataSet) -> bool:
        """Return True if the last layer is for the classes of these data, in their order."""
        return self.card is not None and self.card.classes == data.classes

    def describe(self, data: DataSet) -> str:
        """Return a description of the weights that a run starts from, human-readable."""
        where = f"weights of {self.source}"
        if self.card:
            height, width = self.card.image_size
            where = f"{self.card.data}, {height}x{width}, {len(self.card.classes)} classes"
        last = "the last layer of the same classes" if self.keeps_classifier(data) else "a new last layer"
        return f"starting from {self.path} ({where}) with {last} for {len(data.classes)} classes"


def read_start(path: Path, source: str | None = None) -> Start:
    """Read the weights to start from.

    Args:
        path: A safetensors file, a run folder or a name of the package. With a source also a state dict of
            `torch.save`.
        source: The source that published them, e.g. timm; None if cifarblocks train wrote them.

    Raises:
        UserError: If the file cannot be read, or is of another kind.
    """
    if source is not None and is_own(path):
        raise UserError(f"--source {source}: cifarblocks train wrote --weights {path}; leave out --source and --model")
    with refusing("--weights "):
        file = path if source else find_weights(path)
        tensors, card = read_weights(file) if source is None else (read_published(file, source), None)
    return Start(path, file_digest(file), tensors, source, card)


def is_own(path: Path) -> bool:
    """Return True for weights that cifarblocks train wrote."""
    try:
        read_weights(path)
    except ValueError:
        return False
    return True
