"""Trained weights in one safetensors file that says by itself how to use them."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import cifarblocks
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.data.datasets import DataSet, load_data
from cifarblocks.training.errors import UserError, first_line


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself.

    Attributes:
        model: name for `create_model`.
        arguments: arguments for `create_model`.
        classes: names of the classes, in the order of the logits.
        image_size: height and width of the images.
        mean: of each channel, in units of 0 to 1.
        std: standard deviation of each channel.
        precision: bfloat16, float32 or float64, in which it was trained and tested.
        data: name of the data set.
        epoch: how many epochs the weights were trained.
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


def save_weights(path: Path, model: nn.Module, card: Card) -> None:
    """Write the weights and their card, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata={key: json.dumps(value) for key, value in asdict(card).items()}))


def load_weights(path: Path) -> tuple[nn.Module, Card]:
    """Build the model of a weights file, in eval mode, from the file alone.

    Raises:
        UserError: if the file cannot be read, or was not written by `save_weights`.
    """
    try:
        tensors, card = read_weights(path)
        model = cifarblocks.create_model(card.model, **card.arguments)
        model.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, LookupError, StopIteration) as error:
        raise UserError(
            f"--weights {path} cannot be used as weights that cifarblocks train wrote: {first_line(error)}"
        ) from error
    return model.eval(), card


def load_data_for(card: Card, source: str, directory: Path, image_size: int | None = None) -> DataSet:
    """Read a data set, as `load_data` does, to score weights on.

    Raises:
        UserError: if it cannot be used, or has not the classes or the image size of the weights.
    """
    data = load_data(source, directory, image_size)
    if data.classes != card.classes:
        raise UserError(f"--data {source} has the classes {data.classes}, the weights {card.classes}")
    if data.image_size != card.image_size:
        raise UserError(f"--data {source} has images of {data.image_size}, the weights are for {card.image_size}")
    return data


def read_weights(path: Path) -> tuple[dict[str, Tensor], Card]:
    """The weights of a file and its card; what is wrong with it is raised as it comes."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if not metadata.keys() >= {field.name for field in fields(Card)}:
            raise ValueError("it does not say of what model and data they are")
        metadata = {key: json.loads(value) for key, value in metadata.items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    card = Card(**metadata | {"image_size": tuple(metadata["image_size"])})
    if not len(card.mean) == len(card.std) == len(card.image_size) + 1 == 3:
        raise ValueError("mean, std and image_size must have 3, 3 and 2 numbers")
    return tensors, card
