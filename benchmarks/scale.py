"""Measure how time and memory of a training step grow, and the speed of a second process.

    python benchmarks/scale.py     # about 5 minutes on 2 CPU cores, nothing else running

First, accelerated blocks run forward and backward in bfloat16 and channels_last. One size doubles from setting to
setting. The settings alternate, and each is divided by the first. Then `cifarblocks train` trains a resnet_20 in one
process with all threads, and in two processes with half of them each. Writes benchmarks/results/scale.json and
scale.md.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import described, in_turns, measure_all, peak_memory
from torch import Tensor, nn

from cifarblocks import accelerate, blocks

TURNS, LAUNCHES, BATCH = 7, 3, 128
Build = Callable[[int, int], nn.Module]  # channels, height and width
BLOCKS: dict[str, Build] = {
    "RelativeAttention": lambda c, size: blocks.RelativeAttention(c, size),
    "MixerLayer": lambda c, size: blocks.MixerLayer(size * size, c, size * size // 2, 4 * c),
    "ConvNeXtBlock": lambda c, _: blocks.ConvNeXtBlock(c),
    "GnConv": lambda c, _: blocks.GnConv(c, 3),
    "MSCA": lambda c, _: blocks.MSCA(c),
    "LSKAttention": lambda c, _: blocks.LSKAttention(c),
    "MBConv": lambda c, _: blocks.MBConv(c, c),
    "BasicBlock": lambda c, _: blocks.BasicBlock(c, c),
}
FIRST = {"batch": 16, "width": 32, "depth": 1, "image size": 8}
SIZES = {axis: [first * 2**power for power in range(4)] for axis, first in FIRST.items()}


def prepared(build: Build, setting: dict[str, int]) -> Callable[[], None]:
    """Build a sequence of blocks, and return its forward and backward pass."""
    batch, c, size = setting["batch"], setting["width"], setting["image size"]
    model = accelerate(nn.Sequential(*[build(c, size) for _ in range(setting["depth"])]))
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(batch, c, size, size).to(memory_format=torch.channels_last)
    if isinstance(model[0], blocks.MixerLayer):
        x = torch.randn(batch, size * size, c)
    return partial(forward_backward, model, x.requires_grad_())


def forward_backward(model: nn.Module, x: Tensor) -> None:
    """Run forward and backward, as in training."""
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.sum().backward()
    model.zero_grad()
    x.grad = None


def growth(name: str, axis: str) -> dict[str, Any]:
    """Return time and memory at each size of an axis, divided by those at the first size."""
    runs = [prepared(BLOCKS[name], FIRST | {axis: size}) for size in SIZES[axis]]
    for run in runs:
        run()
    times = in_turns(runs, TURNS, repetitions=3)
    memory = [peak_memory(run) for run in runs]
    return {
        "block": name,
        "axis": axis,
        "milliseconds": 1000 * statistics.median(row[0] for row in times),
        "time": [statistics.median(row[place] / row[0] for row in times) for place in range(len(runs))],
        "quartiles": [statistics.quantiles([row[place] / row[0] for row in times], n=4) for place in range(len(runs))],
        "memory": [held / memory[0] for held in memory],
    }


def images_per_second(processes: int) -> float:
    """Return the images per second of the second epoch on the digits, with the threads divided among the processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "cifarblocks", "train", "--model", "resnet_20", "--recipe", "residual_networks_sgd"]
        command += ["--epochs", "2", "--batch-size", str(BATCH)]
        command += ["--output", folder, "--name", "run"]
        threads = str(torch.get_num_threads() // processes)
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": threads})
        lines = (Path(folder) / "resnet_20" / "run" / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["images_per_second"])


def measure() -> dict[str, Any]:
    """Measure all processes, then all blocks."""
    processes = [[images_per_second(1), images_per_second(2)] for _ in range(LAUNCHES)]
    return {"rows": [growth(name, axis) for name in BLOCKS for axis in SIZES], "processes": processes}


def times(row: dict[str, Any]) -> str:
    """Return the cells of the times of a row."""
    both = zip(row["time"][1:], row["quartiles"][1:], strict=True)
    return " | ".join(f"{time:.1f} ({first:.1f}–{third:.1f})" for time, (first, _, third) in both)


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    lines = [
        f"| {row['block']} | {row['axis']} | {row['milliseconds']:.2f} | {times(row)} "
        f"| {' | '.join(f'{value:.1f}' for value in row['memory'][1:])} |"
        for row in record["rows"]
    ]
    ratios = [two / one for one, two in record["processes"]]
    return f"""# How time and memory grow

Made by `python benchmarks/scale.py` on {described(record)}.

- Accelerated blocks run forward and backward in bfloat16 and channels_last.
- The first setting is batch {FIRST["batch"]}, {FIRST["width"]} channels, one block, maps of
  {FIRST["image size"]}×{FIRST["image size"]}.
- The other columns are ratios to it, with one size 2, 4 and 8 times as large: medians of {TURNS} turns (quartiles).

![Time and memory against each size](../../docs/scale.png)

| block | size that grows | first setting, ms | time at 2× | 4× | 8× | memory at 2× | 4× | 8× |
|---|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

Two processes with {record["machine"]["threads"] // 2} thread each train a resnet_20 at {statistics.median(ratios):.2f}
times the images per second of one process with {record["machine"]["threads"]} threads. This is the median of {LAUNCHES}
pairs of runs, from {min(ratios):.2f} to {max(ratios):.2f}, with a global batch of {BATCH}.
"""


if __name__ == "__main__":
    measure_all("scale", __doc__, measure, table)
