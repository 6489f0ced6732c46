"""Vision blocks for small images, each checked against a reference implementation, and classifiers built from them."""

from cifarblocks import leaving  # noqa: F401 - first, so that Ctrl-C is answered while torch is imported

# isort: split
from cifarblocks import blocks, models
from cifarblocks.accelerating import accelerate, restore
from cifarblocks.checkpoints.published import load_published
from cifarblocks.fusing import fuse
from cifarblocks.macs import count_macs
from cifarblocks.registry import create_model, list_models, register_model

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "accelerate",
    "blocks",
    "count_macs",
    "create_model",
    "fuse",
    "list_models",
    "load_published",
    "models",
    "register_model",
    "restore",
]
