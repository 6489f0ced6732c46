"""The model of a run, by its name and arguments."""

from argparse import Namespace
from typing import Any

import torch
from torch import nn

import cifarblocks
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.errors import UserError, first_line

SET_BY_DATA = ("num_classes", "image_size", "in_channels")


def given_arguments(options: Namespace) -> dict[str, Any]:
    """What the options say the model is built with: its arguments, and `--drop-path` and `--dropout` where given."""
    rates = {"drop_path": options.drop_path, "dropout": options.dropout}
    return {**options.model_argument, **{name: rate for name, rate in rates.items() if rate is not None}}


def sketch_model(options: Namespace) -> nn.Module:
    """The model without memory for its weights, for other classes and perhaps another image size.

    Raises:
        UserError: if there is no such model, or it refuses an argument.
    """
    arguments = given_arguments(options)
    try:
        with torch.device("meta"):
            return cifarblocks.create_model(options.model, **arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        given = "".join(f" {name}={value!r}" for name, value in arguments.items())
        raise UserError(f"--model {options.model}{given}: {first_line(error)}") from error


def build_model(options: Namespace, data: DataSet) -> tuple[nn.Module, dict[str, Any]]:
    """The named classifier for these data, and the arguments it was built with."""
    arguments = {**given_arguments(options), "num_classes": len(data.classes), "image_size": data.image_size}
    try:
        return cifarblocks.create_model(options.model, **arguments), arguments
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--model {options.model}: {first_line(error)}") from error


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer normalises over the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
