"""`cifarblocks show NAME`: arguments, stages, maps, parameters, multiply-adds, paper and origin of a model."""

import inspect
from collections.abc import Callable

import torch
from torch import nn

from cifarblocks import blocks
from cifarblocks.macs import count_macs, count_macs_of_parts
from cifarblocks.models.classifier import Classifier
from cifarblocks.registry import find_model, meaning_of
from cifarblocks.training.options.command_line import Parser


def main(arguments: list[str] | None = None) -> int:
    """Print a model; the exit status is 0, or 2 for a name that is unknown."""
    parser = Parser("cifarblocks show", "Print a model: its arguments and its parts.")
    parser.add_argument("name", help="a name that `cifarblocks list` prints")
    name = parser.parse_args(arguments).name
    try:
        print(description(name))
    except ValueError as error:
        block = next((block for block in blocks.__all__ if block.lower() == name.lower()), None)
        hint = f"; the block is shown by python -m pydoc cifarblocks.blocks.{block}" if block else ""
        parser.error(f"{error}{hint}")
    return 0


def description(name: str) -> str:
    """Return a description of a model with its default arguments, human-readable."""
    factory = find_model(name)
    about = inspect.unwrap(factory).__doc__ or ""  # without the arguments, which the table has
    sections = [f"{name}: {inspect.cleandoc(about)}".partition(">>>")[0].strip(), table_of_arguments(factory)]
    if all(parameter.default is not parameter.empty for parameter in inspect.signature(factory).parameters.values()):
        with torch.device("meta"):
            model = factory()
        if isinstance(model, Classifier):
            source = (inspect.getdoc(inspect.getmodule(factory)) or "").partition("\n")[0]
            sections += [table_of_parts(model), f"From: {source}", "\n".join(origins(model))]
    return "\n\n".join(filter(None, sections))


def table_of_arguments(factory: Callable[..., nn.Module]) -> str:
    """Return name, default and meaning of each argument; the meaning is that of `Annotated[type, meaning]`."""
    rows = [("argument", "default", "meaning")]
    for name, parameter in inspect.signature(factory).parameters.items():
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        rows.append((name, default, meaning_of(factory, name)))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:{first}}  {default:{second}}  {meaning}".rstrip() for name, default, meaning in rows)


def table_of_parts(model: Classifier) -> str:
    """Return map, parameters and multiply-adds of stem, stages and head."""
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
    return "\n".join(
        [*lines, "For the default arguments; one multiplication with its addition counts as one multiply-add."]
    )


def origins(model: Classifier) -> list[str]:
    """Return origin and licence of each block that the model is made of, from its docstring."""
    found = {}
    for module in model.modules():
        _, label, rest = (inspect.getdoc(type(module)) or "").partition("Origin:")
        if label and type(module).__module__.startswith("cifarblocks.blocks."):
            found[type(module).__name__] = " ".join(rest.partition("\n\n")[0].split())
    return [f"{block}: {origin}" for block, origin in sorted(found.items())]
