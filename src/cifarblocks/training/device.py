"""The device that a command runs on."""

import torch

from cifarblocks.training.errors import UserError

DEVICES = ("cpu", "cuda")


def find_device(kind: str | None = None) -> torch.device:
    """Return the device of a kind, "cpu" or "cuda". Default: a GPU if there is one.

    Raises:
        UserError: If the kind is "cuda" and there is no GPU.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here")
    return torch.device(kind or ("cuda" if torch.cuda.is_available() else "cpu"))
