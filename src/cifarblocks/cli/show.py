"""`cifarblocks show NAME`: stages, maps, parameters, multiply-adds, paper and origin of a model."""

import argparse
import inspect
import sys
from typing import cast

import torch

from cifarblocks.macs import count_macs, count_macs_of_parts
from cifarblocks.models.classifier import Classifier
from cifarblocks.registry import find_model


def main(arguments: list[str] | None = None) -> int:
    """Print a model; the exit status is 0, or 2 for a name that is unknown."""
    parser = argparse.ArgumentParser("cifarblocks show", description="Print a model part by part.")
    parser.add_argument("name", help="a name that `cifarblocks list` prints")
    try:
        print(description(parser.parse_args(arguments).name))
    except ValueError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def description(name: str) -> str:
    """Return a model human-readable, at its own image size and for 100 classes."""
    factory = find_model(name)
    with torch.device("meta"):
        model = cast(Classifier, factory())
    h, w = model.image_size
    parts = {"stem": model.stem, **{f"stages.{i}": stage for i, stage in enumerate(model.stages)}, "head": model.head}
    macs = count_macs_of_parts(model)
    maps = {f"stages.{i}": info for i, info in enumerate(model.feature_info)}
    lines = [f"{'':12}{'map':>16}{'parameters':>14}{'multiply-adds':>18}"]
    for path, part in parts.items():
        info = maps.get(path)
        shape = f"{info.channels}×{h // info.stride}×{w // info.stride}" if info else ""
        count = sum(parameter.numel() for parameter in part.parameters())
        lines.append(f"{path:12}{shape:>16}{count:14,}{macs.get(path, 0):18,}")
    total = sum(parameter.numel() for parameter in model.parameters())
    lines.append(f"{'all':12}{f'images {h}×{w}':>16}{total:14,}{count_macs(model):18,}")
    return "\n\n".join(
        [
            f"{name}: {inspect.getdoc(factory)}".partition(">>>")[0].strip(),
            "\n".join(lines) + "\n100 classes; one multiplication with its addition counts as one multiply-add.",
            f"Paper: {(inspect.getdoc(inspect.getmodule(factory)) or '').splitlines()[0]}",
            "\n".join(origins(model)),
        ]
    )


def origins(model: Classifier) -> list[str]:
    """Return origin and licence of each block that the model is made of, from its docstring."""
    found = {}
    for module in model.modules():
        _, label, rest = (inspect.getdoc(type(module)) or "").partition("Origin:")
        if label and type(module).__module__.startswith("cifarblocks.blocks."):
            found[type(module).__name__] = " ".join(rest.partition("\n\n")[0].split())
    return [f"{block}: {origin}" for block, origin in sorted(found.items())]
