"""The table of classifiers, docs/models.md, from the registry: `python docs/model_table.py`, half a minute.

With `--check` nothing is written; the exit status is 1 if the page is not what would be.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torch

import cifarblocks
from cifarblocks.registry import find_model

PAGE = Path(__file__).with_name("models.md")
HEAD = """# Classifiers

Made by `python docs/model_table.py` from the registry. Parameters for 100 classes, at the network's own image size,
which is the paper's where parameters depend on it; multiply-adds of one image, one
multiplication with its addition counting as one, normalisation, activations, pooling and Fourier transforms not
counted. The paper's size is 224 for networks made for it. The last map is that of a 32×32 image: one of 1×1 is what
becomes of a network for large images, and why there are the `_cifar` networks. `python -m cifarblocks show NAME`
tells more of one.

| name | what it is | parameters | multiply-adds at 32×32 | at the paper's size | last map |
|---|---|---:|---:|---:|---:|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(line, cifarblocks.list_models()))


def line(name: str) -> str:
    """One classifier."""
    factory = find_model(name)
    own, small = build(name), build(name, image_size=32)
    last = own.feature_info[-1] if own.feature_info else None
    at_224 = own.image_size == (224, 224) or (last is not None and last.stride == 32)
    large = f"{cifarblocks.count_macs(build(name, image_size=224)):,} (224)" if at_224 else "the same"
    about = inspect.getdoc(factory) or ""
    summary = " ".join(about.partition("\n\n")[0].split())
    address = re.search(r"https://\S+\d", about + (inspect.getdoc(inspect.getmodule(factory)) or ""))
    label = "paper of the blocks" if "of no paper" in summary else "paper"
    paper = f" [{label}]({address[0]})" if address and "https://" not in summary else ""
    cells = [
        f"`{name}`",
        re.sub(r"https://\S+\d", r"<\g<0>>", summary) + paper,
        f"{sum(parameter.numel() for parameter in own.parameters()):,}",
        f"{cifarblocks.count_macs(small):,}",
        large,
        f"{last.channels}×{32 // last.stride}×{32 // last.stride}" if last else "none",
    ]
    return f"| {' | '.join(cells)} |\n"


def build(name: str, **arguments: Any) -> Any:
    """The classifier, on the meta device."""
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
