"""Vision blocks for small images, each checked against a reference implementation, and classifiers built from them."""

from cifarblocks import leaving  # noqa: F401 - first, so that Ctrl-C is answered while torch is imported

# isort: split
from cifarblocks import blocks, models
from cifarblocks.accelerating import accelerate, restore
from cifarblocks.checkpoints.published import load_published
from cifarblocks.checkpoints.trained import load
from cifarblocks.creating import create_model
from cifarblocks.fusing import fuse
from cifarblocks.macs import count_macs
from cifarblocks.models.attentions import list_attentions, register_attention
from cifarblocks.pretrained import list_weights
from cifarblocks.registry import is_model, list_models, register_model

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "accelerate",
    "blocks",
    "count_macs",
    "create_model",
    "fuse",
    "is_model",
    "list_attentions",
    "list_models",
    "list_weights",
    "load",
    "load_published",
    "models",
    "register_attention",
    "register_model",
    "restore",
]
