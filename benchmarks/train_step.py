"""Compare training steps of our networks with those of the reference networks.

    python benchmarks/train_step.py            # all networks: about 15 minutes on 2 CPU cores, nothing else running
    python benchmarks/train_step.py ConvNeXt   # only this one; the others stay as measured

Ours is `accelerate(create_model(...))`, channels_last and bfloat16 autocast. The reference network runs with its
defaults, float32 and contiguous, and again with our settings ("alike"). "plain" is our network without `accelerate`.
All have the same weights and the same batch. A step is forward, loss, backward and SGD; steps alternate in one process.
Writes benchmarks/results/train_step.PROCESSOR.json after each network, and the table beside it.
"""

import statistics
import sys
from functools import partial
from typing import Any

import peak
import torch
import torch.nn.functional as F
from measuring import described, in_turns, peak_memory, processor, renew, spread, typed
from peers import CLASSES, PEERS, TRAINING_GOALS, build
from torch import Tensor, nn

import cifarblocks

BATCH, TURNS = 128, 9
COLUMNS = ["network", "ours", "reference", "goal", "speed-up", "quartiles", "alike", "plain", "images/s", "conv."]
COLUMNS += ["product", "at goal", "memory", "memory, alike", "memory, plain"]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, mixed: bool) -> None:
    """Take one training step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = F.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def prepared(model: nn.Module, x: Tensor, labels: Tensor, as_ours: bool) -> partial[None]:
    """Prepare a network, and return its training step, with its defaults or with our settings."""
    layout = torch.channels_last if as_ours else torch.contiguous_format
    model = model.train().to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return partial(step, model, optimizer, x.to(memory_format=layout), labels, as_ours)


def compare(name: str) -> list[dict[str, Any]]:
    """Return the ratios of time and memory of one network."""
    torch.manual_seed(0)
    x, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))
    ours, theirs = build(name)
    runs = [
        prepared(cifarblocks.accelerate(ours), x, labels, True),
        prepared(theirs, x, labels, False),
        prepared(build(name)[1], x, labels, True),
        prepared(build(name)[0], x, labels, True),
    ]
    for run in runs:
        run()
    times = in_turns(runs, TURNS)
    speedups = [default / our for our, default, _, _ in times]
    fair = [alike / our for our, _, alike, _ in times]
    plain = [alike / our for _, _, alike, our in times]
    memory = [peak_memory(run) for run in runs]
    operations = 3 * 2 * cifarblocks.count_macs(ours) * BATCH  # gradients for inputs and weights cost a forward each
    median = statistics.median(our for our, *_ in times)
    row = {
        "name": name,
        "speedup": statistics.median(speedups),
        "quartiles": statistics.quantiles(speedups, n=4),
        "speedup_alike": statistics.median(fair),
        "quartiles_alike": statistics.quantiles(fair, n=4),
        "speedup_plain": statistics.median(plain),
        "quartiles_plain": statistics.quantiles(plain, n=4),
        "images_per_second": BATCH / median,
        "operations_per_second": operations / median,
        "memory": memory[0] / memory[1],
        "memory_alike": memory[0] / memory[2],
        "memory_plain": memory[3] / memory[2],
    }
    return [row]


def line(row: dict[str, Any], goal: float) -> str:
    """Return one network as a line of the table."""
    peer = PEERS[row["name"]]
    first, _, third = row["quartiles"]
    speedup = f"{row['speedup']:.2f}"
    share = row["operations_per_second"] / row["rates"]["product_bfloat16"]
    cells = [
        row["name"],
        f"`{peer.ours}`",
        peer.origin,
        f"{goal:g}",
        speedup if row["speedup"] >= goal else f"**{speedup}**",
        f"{first:.2f}–{third:.2f}",
        f"{row['speedup_alike']:.2f}",
        f"{row['speedup_plain']:.2f}" if "speedup_plain" in row else "",
        f"{row['images_per_second']:,.0f}",
        f"{100 * row['operations_per_second'] / row['rates']['convolution_bfloat16']:.1f} %",
        f"{100 * share:.1f} %",
        f"{100 * share * goal / row['speedup']:.1f} %",
        f"{row['memory']:.2f}",
        f"{row['memory_alike']:.2f}",
        f"{row['memory_plain']:.2f}" if "memory_plain" in row else "",
    ]
    return f"| {' | '.join(cells)} |"


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows, goals = record["rows"], TRAINING_GOALS[record["processor"]]
    below = [row["name"] for row in rows if row["speedup"] < goals[row["name"]]]
    return f"""# A training step against the reference networks

Made by `python benchmarks/train_step.py`: time of a step of the reference network divided by time of ours. Above 1,
ours is faster. Bold is below the goal: {len(below)} of {len(rows)}.

- Both have the same weights and batches of {BATCH} images of 32×32. Values are medians of {TURNS} alternating steps in
  one process.
- Ours is `accelerate(create_model(...))`, channels_last, bfloat16 autocast. The reference is float32 and contiguous.
- "alike" is the speed-up over the reference with our settings. "plain" is the same for ours without `accelerate`.
- "conv." and "product" are shares of the best rates of the same run: a 3×3 convolution
  ({spread(rows, "convolution_bfloat16")} GFLOP/s in bfloat16) and a matrix product
  ({spread(rows, "product_bfloat16")} GFLOP/s).
- "at goal" is the share of the product that the goal needs. Above 100 % it exceeds torch's best product on this
  machine.
- "memory" is the peak of a step's allocations, ours divided by the reference's; "alike" and "plain" as above.
- {described(record)}.

| {" | ".join(COLUMNS)} |
|---|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(line(row, goals[row["name"]]) for row in rows)}
"""


if __name__ == "__main__":
    chosen = typed(__doc__, "NETWORK")
    sys.exit(renew(f"train_step.{processor()}", chosen, PEERS, compare, table, lambda: {"rates": peak.measure()}))
