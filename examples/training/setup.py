"""What a run is made of, settled before it begins."""

from argparse import Namespace
from typing import Any

import torch
from torch import nn

import cifarblocks
from training.datasets import DataSet
from training.errors import UserError, first_line
from training.optimisation import supports_bfloat16


def resolve(options: Namespace, data: DataSet, device: torch.device) -> None:
    """Fill in the options that depend on the data and the device."""
    if options.precision == "auto":
        options.precision = "bfloat16" if supports_bfloat16(device) else "float32"
    if options.mirror is None:
        options.mirror = data.mirror


def check_shares(options: Namespace, images: int, held_out: int, model: nn.Module, processes: int) -> None:
    """Refuse a split of the images, or of a batch, that leaves nothing to select with or too little to train on."""
    if not (options.final or held_out):
        raise UserError(f"{images} training images are too few to hold a tenth out to select with; --final takes all")
    batch_size = options.batch_size
    if batch_size > images:
        raise UserError(f"--batch-size {batch_size} is more than the {images} training images")
    if batch_size < processes:
        raise UserError(f"--batch-size {batch_size} is less than the {processes} processes that share it")
    if batch_size < 2 * processes and has_batch_norm(model):
        raise UserError(f"--batch-size {batch_size} leaves a process 1 image, and the BatchNorm of the model needs 2")


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer normalises over the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def build_model(options: Namespace, data: DataSet) -> tuple[nn.Module, dict[str, Any]]:
    """The named classifier for these data, and the arguments it was built with."""
    arguments = {**options.model_argument, "num_classes": len(data.classes), "image_size": data.image_size}
    try:
        return cifarblocks.create_model(options.model, **arguments), arguments
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--model {options.model}: {first_line(error)}") from error
