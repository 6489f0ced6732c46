"""Write trained weights, and read the data set that they are scored on."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cifarblocks.checkpoints.own import Card, as_file
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.data.datasets import DataSet, load_data
from cifarblocks.training.errors import UserError


def save_weights(path: Path, state_dict: Mapping[str, Tensor], card: Card) -> None:
    """Write the weights, their card and a digest of both, atomically."""
    write_atomically(path, as_file(state_dict, card))


def load_data_for(card: Card, source: str, directory: Path, image_size: int | None = None) -> DataSet:
    """Read a data set, as `load_data` does, to score weights on.

    Raises:
        UserError: If it cannot be used, or does not have the classes, the image size or the channels of the weights.
    """
    data = load_data(source, directory, image_size)
    if data.classes != card.classes:
        raise UserError(f"--data {source} has the classes {data.classes}, the weights {card.classes}")
    if data.image_size != card.image_size:
        raise UserError(f"--data {source} has images of {data.image_size}, the weights are for {card.image_size}")
    if card.channels == 1 and not data.is_grey:
        raise UserError(f"--data {source} has colours, the weights are for grey images")
    return data
