"""Entry points of torch.hub: each classifier by its name, and `load` for trained weights.

    model = torch.hub.load("OWNER/cifarblocks", "eca_resnet_20", num_classes=10)
    model = torch.hub.load("OWNER/cifarblocks", "eca_resnet_20", pretrained=True)
    trained = torch.hub.load("OWNER/cifarblocks", "load", "eca_resnet_20.digits")

For a clone, give its folder and `source="local"`. Trained weights are files of the repository.
"""

import functools
import inspect
import sys

# torch.hub takes every callable without an underscore for an entry point.
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["torch", "einops", "safetensors"]
sys.path.insert(0, str(_Path(__file__).parent / "src"))

import cifarblocks  # noqa: E402
from cifarblocks import load  # noqa: E402, F401


def _entry_point(name: str) -> _Callable[..., _Any]:
    """Return a function that builds the classifier of that name, with its docstring and signature."""
    factory = getattr(cifarblocks.models, name)

    @functools.wraps(factory)
    def build(weights: str | None = None, **arguments: _Any) -> _Any:
        return cifarblocks.create_model(name, weights, **arguments)

    names = [each.partition(".")[2] for each in cifarblocks.list_weights(f"{name}.*")]
    trained = f"pretrained=True or weights= one of {', '.join(names)}" if names else "none"
    build.__doc__ = f"{inspect.getdoc(factory)}\n\nTrained weights: {trained}.\n"
    return build


for _name in cifarblocks.list_models():
    globals()[_name] = _entry_point(_name)
