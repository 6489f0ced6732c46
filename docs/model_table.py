"""Write the table of classifiers, docs/models.md, from the registry: `python docs/model_table.py`, a minute.

With `--check` nothing is written; the exit status is 1 if the page is not what would be.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torch
from gallery import links

import cifarblocks
from cifarblocks.registry import find_model

PAGE = Path(__file__).with_name("models.md")
HEAD = """# Models

All named classifiers by family, made by `python docs/model_table.py`. Networks for small images come first.

- **Parameters** are for 100 classes.
- **Multiply-adds** are for one image of 32×32. A multiply-add is one multiplication with its addition. Normalisation,
  activations, pooling and Fourier transforms do not count. fvcore also counts BatchNorm: for `eca_resnet_20` with ten
  classes it gives 41,215,600, and `count_macs` 40,814,192.
- **Last map** is for a 32×32 image. Networks with a last map of 1×1 are made for large images. For small images, choose
  a name of their family that ends in `_cifar`.
- **Accuracy** is top-1 of the [trained weights](weights.md) in the package, on the test images.

`create_model(name)` builds a classifier. `cifarblocks show NAME` prints its arguments and parts.
"""
COLUMNS = {  # heading → its alignment
    "name": "---",
    "what it is": "---",
    "parameters": "---:",
    "multiply-adds": "---:",
    "at 224×224": "---:",
    "last map": "---:",
    "accuracy": "---",
}
FAMILIES = {  # file of cifarblocks.models → heading
    "resnet": "ResNet and ECA-Net",
    "ablations": "Ablations of ECA-Net",
    "wide_resnet": "Wide ResNet",
    "resnext": "ResNeXt",
    "ghostnet": "GhostNet",
    "resnest": "ResNeSt",
    "cspnet": "CSPNet",
    "convnext": "ConvNeXt",
    "mscan": "MSCAN (SegNeXt)",
    "lsknet": "LSKNet",
    "hornet": "HorNet",
    "coatnet": "CoAtNet",
    "vit": "Vision Transformer",
    "mixer": "MLP-Mixer",
    "simple": "Small baselines",
}


def page() -> str:
    """Return the whole page."""
    families: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name in cifarblocks.list_models():
        families.setdefault(find_model(name).__module__.split(".")[-1], []).append(name)
    sections = []
    for family, names in families.items():
        rows = [cells(name) for name in sorted(names, key=lambda name: (is_large(name), natural(name)))]
        about = inspect.getdoc(inspect.getmodule(find_model(names[0]))) or ""
        sections.append(f"\n## {FAMILIES.get(family, family)}\n\n{links(about.splitlines()[0])}\n\n{table(rows)}")
    return HEAD + "".join(sections)


def table(rows: list[list[str]]) -> str:
    """Return a table of those columns that have something in one of the rows."""
    kept = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    lines = [[*COLUMNS], [*COLUMNS.values()], *rows]
    return "".join(f"| {' | '.join(line[place] for place in kept)} |\n" for line in lines)


def natural(name: str) -> list[str | int]:
    """Return a key that sorts names by the numbers in them.

    >>> sorted(["resnet_110", "resnet_20"], key=natural)
    ['resnet_20', 'resnet_110']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def is_large(name: str) -> bool:
    """Return whether a network is made for images of 224×224."""
    model = build(name)
    last = model.feature_info[-1] if model.feature_info else None
    return model.image_size == (224, 224) or (last is not None and last.stride == 32)


def cells(name: str) -> list[str]:
    """Return the row of a classifier."""
    own, small = build(name), build(name, image_size=32)
    last = own.feature_info[-1] if own.feature_info else None
    summary = " ".join((inspect.getdoc(find_model(name)) or "").partition("\n\n")[0].split())
    return [
        f"`{name}`",
        links(summary),
        f"{sum(parameter.numel() for parameter in own.parameters()):,}",
        f"{cifarblocks.count_macs(small):,}",
        f"{cifarblocks.count_macs(build(name, image_size=224)):,}" if is_large(name) else "",
        f"{last.channels}×{32 // last.stride}×{32 // last.stride}" if last else "",
        accuracy(name),
    ]


def accuracy(name: str) -> str:
    """Return the accuracies of the trained weights of a classifier, from their cards."""
    weights = cifarblocks.list_weights(f"{name}.*")
    results = [(cifarblocks.load(each).card.accuracy or {}, each.partition(".")[2]) for each in weights]
    return ", ".join(f"{result['top1']:.2f} % (`{tag}`)" for result, tag in results)


def build(name: str, **arguments: Any) -> Any:
    """Return the classifier, on the meta device."""
    with torch.device("meta"):
        return cifarblocks.create_model(name, **arguments)


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.read_text() != text:
            print("docs/models.md is not what the registry gives; run python docs/model_table.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
