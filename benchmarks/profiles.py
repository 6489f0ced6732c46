"""Profile a training step and the inference of one image.

    python benchmarks/profiles.py     # about 3 minutes on 2 CPU cores, nothing else running

Sums the time of torch.profiler by kind of operation. The training step is that of train_step.py, with `accelerate`. The
inference is that of inference.py at batch 1: `accelerate(fuse(model))`. Writes
benchmarks/results/profiles.PROCESSOR.json and the table beside it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from inference import settle
from measuring import described, measure_all, processor
from peers import CLASSES, PEERS, build
from torch.profiler import ProfilerActivity, profile
from train_step import BATCH, prepared

import cifarblocks

# Parts of the names of operations; the first kind that matches counts.
KINDS = {
    "convolution": ("conv", "Depthwise"),
    "matrix product": ("addmm", "aten::mm", "bmm", "attention", "mkldnn_linear"),
    "normalisation": ("norm", "Norm"),
    "activation": ("gelu", "relu", "threshold", "sigmoid", "silu", "hardtanh", "hardswish", "softmax"),
    "sum, product": ("aten::add", "aten::mul", "aten::sum", "aten::mean", "aten::sub", "aten::div", "ChannelScale"),
    "copy": ("copy", "cat", "pad", "zero_", "fill_", "clone", "roll", "flip"),
}
# The last is what `fuse` calls.
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "mkldnn::_convolution_pointwise")
STEPS = {BATCH: 3, 1: 100}


def shares(run: Callable[[], object], steps: int) -> dict[str, Any]:
    """Return the share of the time of each kind, and the number and mean time of calls of convolutions."""
    for _ in range(3):
        run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            run()
    times, calls = Counter[str](), 0
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "other")
        times[kind] += event.self_cpu_time_total
        calls += event.count if event.key in CONVOLUTIONS else 0
    total = sum(times.values())
    return {
        "shares": {kind: times[kind] / total for kind in (*KINDS, "other")},
        "convolutions": calls / steps,
        "microseconds": times["convolution"] / max(calls, 1),
    }


def measure(name: str) -> dict[str, Any]:
    """Profile one network in training and inference."""
    torch.manual_seed(0)
    ours, _ = build(name)
    x, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))
    training = shares(prepared(cifarblocks.accelerate(ours), x, labels, True), STEPS[BATCH])
    settle(ours)
    fast = cifarblocks.accelerate(cifarblocks.fuse(ours)).bfloat16().to(memory_format=torch.channels_last)
    one = x[:1].bfloat16().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return {"name": name, "training": training, "one": shares(lambda: fast(one), STEPS[1])}


def lines(rows: list[dict[str, Any]], part: str) -> str:
    """Return the shares of all networks as lines of a table."""
    cells = [
        [row["name"], *(f"{100 * share:.0f} %" for share in row[part]["shares"].values())]
        + ([f"{row[part]['convolutions']:.0f}", f"{row[part]['microseconds']:.0f}"] if part == "one" else [])
        for row in rows
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows, kinds = record["rows"], " | ".join((*KINDS, "other"))
    return f"""# Profiles

Made by `python benchmarks/profiles.py`: shares of the time of operations in torch.profiler. The time of a convolution
includes its kernels and its gradients. Measured on {described(record)}.

## Training step, {BATCH} images, accelerated, bfloat16 autocast

| network | {kinds} |
|---|{"---:|" * (len(KINDS) + 1)}
{lines(rows, "training")}
## Inference of one image, fused, bfloat16

| network | {kinds} | convolutions | microseconds each |
|---|{"---:|" * (len(KINDS) + 3)}
{lines(rows, "one")}"""


if __name__ == "__main__":
    measure_all(f"profiles.{processor()}", __doc__, lambda: {"rows": [measure(name) for name in PEERS]}, table)
