"""Measure the time to import the library, to build a network and to list the names.

    python benchmarks/start.py     # about 5 minutes

Imports and lists are timed in fresh processes that alternate with `import torch`. Building a network alternates with
building the class of timm or torchvision that computes the same. Writes benchmarks/results/start.json and start.md.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torchvision
from measuring import described, in_turns, measure_all
from torch import nn

import cifarblocks

TURNS = 9
COATNET = {"conv_stride_mode": "1x1", "conv_pool_type": "max", "transformer_pool_type": "max"}
# Networks of the same plan in torchvision or timm, with fewer than 30 million parameters.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet_18": torchvision.models.resnet18,
    "resnet_34": torchvision.models.resnet34,
    "resnet_50": torchvision.models.resnet50,
    **{
        name: partial(timm.create_model, name)
        for name in (
            *("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano", "convnext_tiny"),
            *("ghostnet_050", "ghostnet_100", "ghostnet_130"),
            *("resnest14d", "resnest26d", "resnest50d"),
            *("cspresnet50", "cspresnext50", "cspdarknet53"),
        )
    },
    "coatnet_0": partial(timm.create_model, "coatnet_0_224", **COATNET),
    "mlp_mixer_s16": partial(timm.create_model, "mixer_s16_224"),
    "vit_tiny_16": partial(timm.create_model, "vit_tiny_patch16_224"),
}


def fresh(*arguments: str) -> None:
    """Run Python in a process of its own."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def beyond_torch() -> dict[str, dict[str, Any]]:
    """Return the seconds of the import and the list, minus those of `import torch`."""
    runs = [
        partial(fresh, "-c", "import torch"),
        partial(fresh, "-c", "import torch, cifarblocks"),
        partial(fresh, "-m", "cifarblocks", "list"),
    ]
    for run in runs:
        run()
    times = in_turns(runs, TURNS)
    found = {}
    for place, name in ((1, "import cifarblocks"), (2, "python -m cifarblocks list")):
        beyond = [row[place] - row[0] for row in times]
        found[name] = {"seconds": statistics.median(beyond), "quartiles": statistics.quantiles(beyond, n=4)}
    return found


def building() -> dict[str, dict[str, Any]]:
    """Return the time to build each network, divided by that of the class it equals."""
    found = {}
    for name, theirs in NETWORKS.items():
        ours = partial(cifarblocks.create_model, name, num_classes=1000)
        ratios = [own / other for own, other in in_turns([ours, theirs], TURNS)]
        found[name] = {"ratio": statistics.median(ratios), "quartiles": statistics.quantiles(ratios, n=4)}
        print(name, f"{found[name]['ratio']:.2f}", flush=True)
    return found


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    goals = {"import cifarblocks": 0.15, "python -m cifarblocks list": 1.0}
    seconds = [
        f"| `{name}` | {goals[name]:g} | {row['seconds']:.3f} | {row['quartiles'][0]:.3f}–{row['quartiles'][2]:.3f} |"
        for name, row in record["beyond_torch"].items()
    ]
    ratios = [
        f"| `{name}` | {row['ratio']:.2f} | {row['quartiles'][0]:.2f}–{row['quartiles'][2]:.2f} |"
        for name, row in record["building"].items()
    ]
    return f"""# Import and build times

Made by `python benchmarks/start.py`: medians and quartiles of {TURNS} turns, on {described(record)}.

Seconds in fresh processes, minus those of `import torch`:

| command | goal | seconds | quartiles |
|---|---:|---:|---|
{chr(10).join(seconds)}

Time of `create_model` divided by that of the same network in timm or torchvision, with 1,000 classes. The goal is at
most 1.5:

| network | ratio | quartiles |
|---|---:|---|
{chr(10).join(ratios)}
"""


if __name__ == "__main__":
    measure_all("start", __doc__, lambda: {"beyond_torch": beyond_torch(), "building": building()}, table)
