"""Load the weights files of `cifarblocks train`: safetensors with a card that says how to use them."""

import ctypes
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import reduce
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn

from cifarblocks.checkpoints.files import ZIP, first_line, reading
from cifarblocks.checkpoints.resizing import FLOATING, fitting
from cifarblocks.registry import instantiate, is_model

OWN = "used as weights that cifarblocks train wrote"
DIGEST = "sha256"
PRECISIONS = ("bfloat16", "float32", "float64")
LARGEST = 4096  # the largest --image-size
TEXTS = ("command", "machine", "licence", "limits")


@dataclass(frozen=True)
class Card:
    """Description of a weights file, kept in its metadata.

    Attributes:
        model: Name for `create_model`.
        arguments: Arguments for `create_model`.
        classes: Names of the classes, in the order of the logits.
        image_size: Height and width of the images.
        mean: Mean of each channel, in units of 0 to 1; one number for a network of grey images, in_channels=1.
        std: Standard deviation of each channel.
        precision: Precision of training and test: bfloat16, float32 or float64.
        data: Name of the data set.
        epoch: Number of epochs that the weights were trained.
        accuracy: Accuracy on the test images, in percent, with the number of images, runs and their seeds.
        recipe: Options of the training that decide its result.
        command: Command that trained them.
        machine: Hardware of the training.
        hours: Wall-clock time of the training.
        licence: Licence of the weights.
        limits: Uses that they are unfit for.

    The last seven are None in weights files of a run.

    Raises:
        ValueError: If a value is of another type, not finite or out of range; the message names it.
    """

    model: str
    arguments: dict[str, Any]
    classes: list[str]
    image_size: tuple[int, int]
    mean: list[float]
    std: list[float]
    precision: str
    data: str
    epoch: int
    accuracy: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    command: str | None = None
    machine: str | None = None
    hours: float | None = None
    licence: str | None = None
    limits: str | None = None

    @property
    def channels(self) -> int:
        """Number of channels of the images: 3, or 1 for grey images."""
        return len(self.mean)

    def __post_init__(self) -> None:
        classes, size = self.classes, self.image_size
        channels = self.arguments.get("in_channels", 3) if isinstance(self.arguments, dict) else 3
        if type(channels) is not int or channels not in (1, 3):
            raise ValueError(f"argument in_channels must be 1 or 3, got {shortened(channels)}")
        rules = {
            "model": ("a name", isinstance(self.model, str)),
            "arguments": ("a table", isinstance(self.arguments, dict)),
            "classes": ("names", isinstance(classes, list) and classes and all(isinstance(c, str) for c in classes)),
            "image_size": (f"two numbers from 1 to {LARGEST}", is_size(size)),
            "mean": (f"{channels} numbers from -1000 to 1000", are_numbers(self.mean, channels, -1000, 1000)),
            "std": (f"{channels} numbers from 1e-6 to 1000", are_numbers(self.std, channels, 1e-6, 1000)),
            "precision": (f"one of {', '.join(PRECISIONS)}", self.precision in PRECISIONS),
            "data": ("a name", isinstance(self.data, str)),
            "epoch": ("a whole number of at least 0", type(self.epoch) is int and self.epoch >= 0),
            "accuracy": (f"a table with {', '.join(ACCURACY)}", self.accuracy is None or is_accuracy(self.accuracy)),
            "recipe": ("a table", is_optional(self.recipe, dict)),
            **{name: ("a text", is_optional(getattr(self, name), str)) for name in TEXTS},
            "hours": ("a number from 0 to 1e6", self.hours is None or is_number(self.hours, 0, 1e6)),
        }
        for name, (wanted, right) in rules.items():
            if not right:
                raise ValueError(f"{name} must be {wanted}, got {shortened(getattr(self, name))}")
        arguments = {"image_size": size, **self.arguments}  # only some models have the argument
        for name, value in (("num_classes", len(classes)), ("image_size", size)):
            if json.dumps(found := arguments.get(name)) != json.dumps(value):
                raise ValueError(f"argument {name} must be {value} as in the card, got {shortened(found)}")


NAMES = {field.name for field in fields(Card)}
REQUIRED = {field.name for field in fields(Card) if field.default is MISSING}


def is_size(value: Any) -> bool:
    """Return True for a height and a width in range."""
    return isinstance(value, tuple) and [type(n) is int and 1 <= n <= LARGEST for n in value] == [True] * 2


def are_numbers(values: Any, count: int, least: float, most: float) -> bool:
    """Return True for a list of `count` numbers in a range."""
    return isinstance(values, list) and [is_number(n, least, most) for n in values] == [True] * count


def is_number(value: Any, least: float, most: float) -> bool:
    """Return True for a number in a range."""
    return type(value) in (int, float) and least <= value <= most


def is_accuracy(value: Any) -> bool:
    """Return True for a table whose facts `accuracy_of` can print."""
    if not isinstance(value, dict) or not value.keys() >= ACCURACY.keys():
        return False
    return all(right(value[name]) for name, right in ACCURACY.items())


def is_optional(value: Any, kind: type) -> bool:
    """Return True for None or a value of a kind."""
    return value is None or isinstance(value, kind)


def is_positive(value: Any) -> bool:
    """Return True for a whole number of at least 1."""
    return type(value) is int and value >= 1


ACCURACY: dict[str, Callable[[Any], bool]] = {
    "top1": lambda value: is_number(value, 0, 100),
    "top5": lambda value: value is None or is_number(value, 0, 100),
    "images": is_positive,
    "runs": is_positive,
    "seeds": lambda value: isinstance(value, list) and all(type(seed) is int for seed in value),
}


def load_weights(path: Path) -> tuple[nn.Module, Card]:
    """Build the model of a weights file, in eval mode on the CPU.

    Raises:
        ValueError: If the file cannot be read, or is not a weights file of `cifarblocks train`.
    """
    tensors, card = read_weights(path)
    with reading(path, OWN):
        if not is_model(card.model):
            hint = "import the module that registers it, or update cifarblocks"
            raise ValueError(f"its model {shortened(card.model)} is unknown here; {hint}")
        dtype = floating_type(tensors)
        sketch = instantiate(card.model, device="meta", dtype=dtype, **card.arguments)
        tensors = fitting(sketch, tensors, card.image_size)  # before the model takes memory
        model = instantiate(card.model, device="cpu", dtype=dtype, **card.arguments)
        model.load_state_dict(tensors)
    return model.eval(), card


def read_weights(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read the tensors of a weights file and its card.

    Raises:
        ValueError: If the file cannot be read, is damaged, or is not a weights file of `cifarblocks train`.
    """
    with reading(path, OWN):
        from safetensors import SafetensorError, safe_open  # not imported by the door

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                require_card(metadata)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError:  # replaces its messages, which are about headers
            raise ValueError(what_else(path)) from None
        older = metadata.keys() <= REQUIRED | {"format"}  # files of older releases have none
        if not older and metadata.pop(DIGEST, None) != digest_of(tensors, metadata):
            raise ValueError("it is damaged: its digest does not match")
        card = card_of(metadata)
        if not tensors:
            raise ValueError("it has no tensors")
    return tensors, card


def require_card(metadata: Mapping[str, str]) -> None:
    """Refuse the metadata of a file that has no card.

    Raises:
        ValueError: If a name is missing.
    """
    if not metadata.keys() >= REQUIRED:
        raise ValueError("it does not name its model and data")


def card_of(metadata: Mapping[str, str]) -> Card:
    """Return the card in the metadata of a file.

    Raises:
        ValueError: If a value is not JSON or wrong; the message names it.
    """
    values = {name: read_value(name, metadata[name]) for name in NAMES & metadata.keys()}
    size = values["image_size"]
    return Card(**values | {"image_size": tuple(size) if isinstance(size, list) else size})


def metadata_of(card: Card) -> dict[str, str]:
    """Return a card as the metadata of a file: values as JSON, without None."""
    return {name: json.dumps(value) for name, value in asdict(card).items() if value is not None}


def as_file(state_dict: Mapping[str, Tensor], card: Card) -> bytes:
    """Return a weights file: tensors, their card and a digest of both."""
    from safetensors.torch import save  # not imported by the door

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    metadata = metadata_of(card)
    return save(tensors, metadata={**metadata, DIGEST: digest_of(tensors, metadata)})


def read_value(name: str, text: str) -> Any:
    """Read a value of a card, written as JSON.

    Raises:
        ValueError: If it is not JSON; the message names it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON: {first_line(error)}") from error


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a hash of a weights file: names, types, shapes and bytes of its tensors, and the rest of its metadata."""
    listed = sorted(tensors.items())
    described = [[name, str(tensor.dtype), *tensor.shape] for name, tensor in listed]
    digest = hashlib.sha256(json.dumps([described, sorted(metadata.items())]).encode())
    for _, tensor in listed:
        tensor = tensor.contiguous()
        digest.update((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))  # NumPy need not be installed
    return digest.hexdigest()


def what_else(path: Path) -> str:
    """Return the kind of a file that is not a safetensors file, with advice."""
    if path.suffix.lower() == ".onnx":
        return "it is an ONNX file, which only load and predict take"
    if path.suffix.lower() == ".pt2":
        return "it is a file of torch.export; give the weights that were exported"
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return "it is damaged, or not a safetensors file"
    beside = path.with_name("last.safetensors")
    use = beside if beside.exists() else "model.load_state_dict(torch.load(path))"
    return f"it is a file of torch.save; use {use}"


def floating_type(tensors: Mapping[str, Tensor]) -> torch.dtype | None:
    """Return the smallest floating-point type that holds all tensors; None without floating-point tensors."""
    types = {tensor.dtype for tensor in tensors.values()} & set(FLOATING)
    return reduce(torch.promote_types, types) if types else None
