"""Load the weights files of `cifarblocks train`: safetensors with a card that says how to use them."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifarblocks.checkpoints.files import reading
from cifarblocks.registry import create_model

OWN = "used as weights that cifarblocks train wrote"


@dataclass(frozen=True)
class Card:
    """Description of a weights file, kept in its metadata.

    Attributes:
        model: Name for `create_model`.
        arguments: Arguments for `create_model`.
        classes: Names of the classes, in the order of the logits.
        image_size: Height and width of the images.
        mean: Mean of each channel, in units of 0 to 1.
        std: Standard deviation of each channel.
        precision: bfloat16, float32 or float64, in which it was trained and tested.
        data: Name of the data set.
        epoch: Number of epochs that the weights were trained.
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


def load_weights(path: Path) -> tuple[nn.Module, Card]:
    """Build the model of a weights file, in eval mode, from the file alone.

    Raises:
        ValueError: If the file cannot be read, or is not a weights file of `cifarblocks train`.
    """
    tensors, card = read_weights(path)
    with reading(path, OWN):
        model = create_model(card.model, **card.arguments)
        model.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    return model.eval(), card


def read_weights(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read the tensors of a weights file and its card.

    Raises:
        ValueError: If the file cannot be read, or is not a weights file of `cifarblocks train`.
    """
    with reading(path, OWN):
        from safetensors import safe_open  # here: importing cifarblocks imports torch and einops alone

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if not metadata.keys() >= {field.name for field in fields(Card)}:
                raise ValueError("it does not say of what model and data they are")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = {field.name: json.loads(metadata[field.name]) for field in fields(Card)}
        card = Card(**metadata | {"image_size": tuple(metadata["image_size"])})
        if not len(card.mean) == len(card.std) == len(card.image_size) + 1 == 3:
            raise ValueError("mean, std and image_size must have 3, 3 and 2 numbers")
        if not tensors:
            raise ValueError("it has no tensors")
    return tensors, card
