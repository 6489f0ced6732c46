"""What a run is made of, settled before it begins."""

from argparse import Namespace
from typing import Any

import torch
from torch import nn

import cifarblocks
from training.datasets import DataSet
from training.errors import UserError
from training.optimisation import supports_bfloat16


def resolve(options: Namespace, data: DataSet, device: torch.device) -> None:
    """Fill in the options that depend on the data and the device."""
    if options.precision == "auto":
        options.precision = "bfloat16" if supports_bfloat16(device) else "float32"
    if options.mirror is None:
        options.mirror = data.mirror


def check_batch_size(batch_size: int, images: int, processes: int) -> None:
    """Refuse a global batch that the images do not fill or the processes cannot share."""
    if batch_size > images:
        raise UserError(f"--batch-size {batch_size} is more than the {images} training images")
    if batch_size < processes:
        raise UserError(f"--batch-size {batch_size} is less than the {processes} processes that share it")


def build_model(options: Namespace, data: DataSet) -> tuple[nn.Module, dict[str, Any]]:
    """The named classifier for these data, and the arguments it was built with."""
    arguments = {**options.model_argument, "num_classes": len(data.classes), "image_size": data.image_size}
    try:
        return cifarblocks.create_model(options.model, **arguments), arguments
    except (ValueError, TypeError) as error:
        raise UserError(f"--model {options.model}: {error}") from error
