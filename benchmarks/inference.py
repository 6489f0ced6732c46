"""Compare inference of our networks, `accelerate(fuse(model))` in bfloat16, with the reference networks.

    python benchmarks/inference.py            # all networks: about 20 minutes on 2 CPU cores, nothing else running
    python benchmarks/inference.py ConvNeXt   # only this one; the others stay as measured

The reference network runs eagerly with its defaults: float32 and contiguous. Ours is fused and accelerated, in bfloat16
and channels_last. The table also has ours in float32, ours compiled by torch.compile in bfloat16, with and without
freezing (which packs weights), and ours fused in ONNX Runtime in float32. All have the same weights and the same batch,
and alternate in one process. Writes benchmarks/results/inference.PROCESSOR.json after each network, and the table
beside it.
"""

import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import onnxruntime
import peak
import torch
from measuring import described, in_turns, processor, renew, seconds, spread, typed
from peers import INFERENCE_GOALS, PEERS, build
from torch import Tensor, nn

import cifarblocks

TURNS, TURN_SECONDS = 9, 0.1
RECOMMENDED = {256: "ours", 1: "float32"}  # the dtype for a batch size, whose speed-up is compared with the goal
COLUMNS = ["network", "ours", "goal", "bfloat16", "quartiles", "float32", "compiled", "frozen", "ONNX", "images/s"]
COLUMNS += ["share", "at goal", "error"]
KINDS = ("ours", "float32", "compiled", "frozen", "onnx")


def compare(name: str) -> list[dict[str, Any]]:
    """Return the ratios of time of one network at both batch sizes, and the error of bfloat16."""
    torch.compiler.reset()
    torch.manual_seed(0)
    ours, theirs = (network.eval() for network in build(name))
    for network in (ours, theirs):  # a new network has means of 0 and variances of 1
        settle(network)
    fused = cifarblocks.fuse(ours)
    in_float32 = cifarblocks.accelerate(cifarblocks.fuse(ours)).to(memory_format=torch.channels_last)
    fast = cifarblocks.accelerate(cifarblocks.fuse(ours)).bfloat16().to(memory_format=torch.channels_last)
    row: dict[str, Any] = {"name": name}
    for batch in INFERENCE_GOALS:
        x = torch.randn(batch, 3, 32, 32)
        near = x.bfloat16().to(memory_format=torch.channels_last)
        session = exported(fused, x)
        runs: dict[str, Callable[[], Any]] = {
            "ours": partial(fast, near),
            "reference": partial(theirs, x),
            "float32": partial(in_float32, x.to(memory_format=torch.channels_last)),
            "compiled": partial(torch.compile(fast), near),
            "frozen": partial(torch.compile(fast, options={"freezing": True}), near),
            "onnx": partial(session.run, None, {session.get_inputs()[0].name: x.numpy()}),
        }
        with torch.inference_mode():
            for run in runs.values():
                run()
            error = (fast(near).float() - theirs(x)).norm() / theirs(x).norm()
            repetitions = max(1, round(TURN_SECONDS / seconds(runs["reference"])))
            times = in_turns(list(runs.values()), TURNS, repetitions)
        columns = dict(zip(runs, zip(*times, strict=True), strict=True))
        ratios = {
            kind: [reference / own for reference, own in zip(columns["reference"], columns[kind], strict=True)]
            for kind in runs
        }
        row[str(batch)] = {
            **{kind: statistics.median(ratios[kind]) for kind in KINDS},
            "quartiles": statistics.quantiles(ratios["ours"], n=4),
            "images_per_second": batch / statistics.median(columns["ours"]),
            "operations_per_second": 2 * cifarblocks.count_macs(ours) * batch / statistics.median(columns["ours"]),
            "error": error.item(),
        }
    return [row]


@torch.no_grad()
def settle(network: nn.Module) -> None:
    """Update the statistics of BatchNorm with some batches, the same for every network."""
    generator = torch.Generator().manual_seed(1)
    network.train()
    for _ in range(20):
        network(torch.randn(32, 3, 32, 32, generator=generator))
    network.eval()


def exported(network: nn.Module, x: Tensor) -> onnxruntime.InferenceSession:
    """Load the network in ONNX Runtime, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (x,), dynamo=True, verbose=False)
        assert program is not None
        program.save(f"{folder}/model.onnx")
        return onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])


def line(row: dict[str, Any], batch: int, goal: float) -> str:
    """Return one network as a line of a table."""
    cell = row[str(batch)]
    first, _, third = cell["quartiles"]
    shown = {kind: f"{cell[kind]:.2f}" if kind in cell else "–" for kind in KINDS}
    if is_below(row, batch, goal):
        shown[RECOMMENDED[batch]] = f"**{shown[RECOMMENDED[batch]]}**"
    share = cell["operations_per_second"] / row["rates"]["product_bfloat16"]
    cells = [
        row["name"],
        f"`{PEERS[row['name']].ours}`",
        f"{goal:g}",
        shown["ours"],
        f"{first:.2f}–{third:.2f}",
        *[shown[kind] for kind in KINDS[1:]],
        f"{cell['images_per_second']:,.0f}",
        f"{100 * share:.1f} %",
        f"{100 * share * goal / cell['ours']:.1f} %",
        f"{100 * cell['error']:.2f} %",
    ]
    return f"| {' | '.join(cells)} |"


def is_below(row: dict[str, Any], batch: int, goal: float) -> bool:
    """Return True if the recommended dtype does not reach the goal."""
    speed_up: float = row[str(batch)][RECOMMENDED[batch]]
    return speed_up < goal


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows = record["rows"]
    text = f"""# Inference against the reference networks

Made by `python benchmarks/inference.py`: time of the reference network divided by time of ours. Above 1, ours is
faster.

- The reference network is eager, float32 and contiguous.
- "bfloat16" is our network: `accelerate(fuse(model))` in bfloat16 and channels_last. The columns "quartiles",
  "images/s", "share", "at goal" and "error" are for it.
- "float32" is the same network in float32, the dtype that we recommend for one image. For batches it is bfloat16.
- "compiled" and "frozen" are our network under torch.compile in bfloat16, without and with freezing. "ONNX" is our
  fused network in ONNX Runtime in float32. "–" was not measured.
- Values are medians of {TURNS} alternating turns in one process, with images of 32×32.
- "share" is the share of the best bfloat16 matrix product of the same run ({spread(rows, "product_bfloat16")} GFLOP/s).
- "at goal" is the share that the goal needs. Above 100 % it exceeds torch's best product on this machine.
- "error" is the relative L2 error of bfloat16 in the logits, with random weights.
- {described(record)}.
"""
    for batch, kinds in INFERENCE_GOALS.items():
        goals = kinds[record["processor"]]
        below = sum(is_below(row, batch, goals[row["name"]]) for row in rows)
        text += f"""
## Batch {batch}

Bold is below the goal in the recommended dtype: {below} of {len(rows)}.

| {" | ".join(COLUMNS)} |
|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(line(row, batch, goals[row["name"]]) for row in rows)}
"""
    return text


if __name__ == "__main__":
    chosen = typed(__doc__, "NETWORK")
    sys.exit(renew(f"inference.{processor()}", chosen, PEERS, compare, table, lambda: {"rates": peak.measure()}))
