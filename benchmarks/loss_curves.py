"""Compare the loss of our networks and of the reference networks over 200 training steps.

    python benchmarks/loss_curves.py            # all networks: about 30 minutes on 2 CPU cores
    python benchmarks/loss_curves.py ConvNeXt   # only this one; the others stay as measured

All train on the digits, from the same weights and with the same batches. The reference network runs in float32 and in
bfloat16; the distance of the two is the noise of bfloat16. Our network, accelerated and in bfloat16, should be as close
to the reference in float32. Writes benchmarks/results/loss_curves.json and loss_curves.md.
"""

import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from measuring import described, renew, typed
from peers import PEERS, build
from torch import Tensor, nn

import cifarblocks
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.data.datasets import load_data
from cifarblocks.training.data.seeds import random_stream

STEPS, BATCH, LEARNING_RATE, WINDOW = 200, 32, 0.02, 20
KINDS = ("reference", "reference_bfloat16", "ours")


def losses(model: nn.Module, images: Tensor, labels: Tensor, as_ours: bool) -> list[float]:
    """Return the loss of each step, in float32 and contiguous or in bfloat16 and channels_last."""
    model = model.train().to(memory_format=torch.channels_last if as_ours else torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    generator = random_stream("losses")
    found = []
    for _ in range(STEPS):
        batch = torch.randint(len(labels), (BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=as_ours):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def compare(name: str) -> list[dict[str, Any]]:
    """Return the three curves of one network."""
    data = load_data("digits", Path())
    images = Normalisation(*data.mean_and_std, torch.device("cpu"), torch.float32)(data.train.pixels)
    curves = {}
    for kind, own, as_ours in (("ours", True, True), ("reference", False, False), ("reference_bfloat16", False, True)):
        torch.manual_seed(0)
        ours, theirs = build(name)
        curves[kind] = losses(cifarblocks.accelerate(ours) if own else theirs, images, data.train.labels, as_ours)
    return [{"name": name, **curves}]


def smoothed(curve: list[float]) -> list[float]:
    """Return the running mean of a curve over the last `WINDOW` steps."""
    return [fmean(curve[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(curve))]


def distance(a: list[float], b: list[float]) -> float:
    """Return the mean distance of two smoothed curves."""
    return fmean(abs(x - y) for x, y in zip(smoothed(a), smoothed(b), strict=True))


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows = record["rows"]
    lines = [
        f"| {row['name']} | {' | '.join(f'{fmean(row[kind][-WINDOW:]):.4f}' for kind in KINDS)} | "
        f"{distance(row['reference_bfloat16'], row['reference']):.4f} | "
        f"{distance(row['ours'], row['reference']):.4f} |"
        for row in rows
    ]
    return f"""# The loss over {STEPS} steps, against the reference networks

Made by `python benchmarks/loss_curves.py` on the digits, with the same initial weights and batches for all. Our
networks are accelerated.

- SGD with Nesterov momentum, learning rate {LEARNING_RATE:g}, batches of {BATCH}.
- The first three columns are the mean loss of the last {WINDOW} steps.
- A distance is the mean difference from the reference in float32, of curves smoothed over {WINDOW} steps.
- The distance of the reference in bfloat16 is the noise of bfloat16. Ours should not be much larger.
- {described(record)}.

| network | reference, float32 | reference, bfloat16 | ours, bfloat16 | distance, reference | distance, ours |
|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

![The curves](../../docs/loss_curves.png)
"""


if __name__ == "__main__":
    sys.exit(renew("loss_curves", typed(__doc__, "NETWORK"), PEERS, compare, table))
