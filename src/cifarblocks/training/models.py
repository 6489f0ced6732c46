"""The model of a run, by its name and arguments."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

import cifarblocks
from cifarblocks.checkpoints.files import first_line
from cifarblocks.models.classifier import Classifier
from cifarblocks.training.errors import UserError, is_out_of_memory

if TYPE_CHECKING:  # it imports torchvision, which --help need not wait for
    from cifarblocks.training.data.datasets import DataSet

SET_BY_DATA = ("num_classes", "image_size")


def sketch_model(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Return the model without memory for its weights, for other classes and perhaps another image size.

    Raises:
        UserError: If there is no such model, or it refuses an argument.
    """
    try:
        with torch.device("meta"):
            return cifarblocks.create_model(name, **arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        given = "".join(f" {name}={value!r}" for name, value in arguments.items())
        raise UserError(f"--model {name}{given}: {first_line(error)}") from error


def build_model(name: str, arguments: dict[str, Any], data: "DataSet") -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier for some data with its first weights, and all arguments that it was built with.

    Raises:
        UserError: If the model refuses an argument, or has one channel and the images have colours.
    """
    if arguments.get("in_channels") == 1 and not data.is_grey:
        raise UserError(f"--model-argument in_channels=1 is for grey images, and those of {data.name} have colours")
    arguments = {**arguments, "num_classes": len(data.classes), "image_size": data.image_size}
    try:
        return cast(Classifier, cifarblocks.create_model(name, **arguments)), arguments
    except (ValueError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"--model {name}: {first_line(error)}") from error


def has_batch_norm(model: nn.Module) -> bool:
    """Return True if any layer normalises over the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
