"""Compare the gates of resnet_20: accuracy by the grid `attentions`, and time measured here.

    cifarblocks sweep attentions                      # writes runs/attentions
    python benchmarks/attentions.py runs/attentions

FOLDER is the --output of that sweep, which must be complete. Training steps and inference of all networks alternate in
one process. Writes benchmarks/results/attentions.json and attentions.md. Takes 3 minutes on 1 CPU core.
"""

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import sweeps
import torch
from measuring import described, in_turns, markdown, surroundings, write
from torch import Tensor, nn
from train_step import prepared

import cifarblocks
from cifarblocks.training.compare.table import Row, circumstances, percent
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import keep_freed_memory
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.stopping import exit_status

BATCH, TURNS = 128, 15
NONE = "none"
BAR = 3.0  # standard errors: Dunnett's two-sided test of ten gates against none, three seeds each, has 2.96 at p = 0.05
COLUMNS = ["gate", "test top-1", "seeds", "more than none", "parameters", "multiply-adds"]
COLUMNS += ["training step", "quartiles", "ms", "inference", "quartiles", "ms"]


def gate(row: Row) -> str:
    """Return the name of the gate of some runs."""
    return str(row.summaries[0]["configuration"]["options"]["model_argument"]["attention"])


@torch.inference_mode()
def infer(model: nn.Module, x: Tensor) -> None:
    """Compute the logits of a batch."""
    model(x)


def measure(gates: list[str]) -> dict[str, dict[str, Any]]:
    """Return the times of a training step and of inference with each gate, and their ratios to those without one."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    runs: dict[str, list[partial[None]]] = {"training step": [], "inference": []}
    for name in gates:
        model = cifarblocks.create_model("resnet_20", num_classes=10, attention=name)
        fast = cifarblocks.accelerate(cifarblocks.fuse(model.eval())).bfloat16().to(memory_format=torch.channels_last)
        runs["inference"].append(partial(infer, fast, x.bfloat16()))
        runs["training step"].append(prepared(cifarblocks.accelerate(model), x, labels, as_ours=True))
    measured: dict[str, dict[str, Any]] = {name: {} for name in gates}
    for kind, alternating in runs.items():
        in_turns(alternating, 1)  # compiles kernels, and fills caches
        turns = [dict(zip(gates, turn, strict=True)) for turn in in_turns(alternating, TURNS)]
        for name in gates:
            ratios = [turn[name] / turn[NONE] for turn in turns]
            measured[name][kind] = {
                "ratio": statistics.median(ratios),
                "quartiles": statistics.quantiles(ratios, n=4),
                "seconds": statistics.median(turn[name] for turn in turns),
            }
    return measured


def standard_errors(rows: list[Row]) -> dict[str, float]:
    """Return the standard error of each gate's difference from none, from the variance over the seeds of all rows."""
    seeds = {gate(row): len(row.summaries) for row in rows}
    squares = sum((top1 - row.top1) ** 2 for row in rows for top1 in row.values("test_top1"))
    variance = squares / sum(number - 1 for number in seeds.values())
    return {name: (variance * (1 / number + 1 / seeds[NONE])) ** 0.5 for name, number in seeds.items()}


def paying(rows: list[Row], times: dict[str, dict[str, Any]]) -> list[str]:
    """Return the gates significantly better than none, and better than every gate with a shorter training step."""
    step = {gate(row): times[gate(row)]["training step"]["ratio"] for row in rows}
    none = next(row for row in rows if gate(row) == NONE)
    errors = standard_errors(rows)
    better = [row for row in rows if row.top1 - none.top1 > BAR * errors[gate(row)]]
    return [
        gate(row)
        for row in better
        if all(row.top1 > other.top1 for other in rows if step[gate(other)] < step[gate(row)])
    ]


def cells(row: Row, more: float, error: float, times: dict[str, Any]) -> list[str]:
    """Return one gate as a line of the table."""
    difference = f"{more:+.2f} ± {error:.2f}"
    line = [f"`{gate(row)}`", percent(row.values("test_top1")), str(len(row.summaries))]
    line.append("" if gate(row) == NONE else f"**{difference}**" if abs(more) > BAR * error else difference)
    line += [f"{row.summaries[0][key]:,}" for key in ("parameters", "multiply_adds")]
    for kind in ("training step", "inference"):
        first, _, third = times[kind]["quartiles"]
        line += [f"{times[kind]['ratio']:.2f}", f"{first:.2f}–{third:.2f}", f"{1000 * times[kind]['seconds']:,.0f}"]
    return line


def table(record: dict[str, Any]) -> str:
    """Return the page; the best on the test images comes first."""
    rows = sorted(sweeps.rows(record), key=lambda row: -row.top1)
    none, errors = next(row for row in rows if gate(row) == NONE), standard_errors(rows)
    lines = [cells(row, row.top1 - none.top1, errors[gate(row)], record["times"][gate(row)]) for row in rows]
    names = ", ".join(f"`{name}`" for name in paying(rows, record["times"])) or "none of them"
    diverged = ", ".join(f"`{name.partition('/')[2]}`" for name in record.get("diverged", [])) or "none"
    first = rows[0].summaries[0]
    return f"""# Gates of ResNet-20

Made by `cifarblocks sweep attentions` and `python benchmarks/attentions.py`: `resnet_20` with each gate of
`list_attentions()`, {first["epochs"]} epochs, {max(len(row.summaries) for row in rows)} seeds.
{circumstances(rows)}

- Top-1 is that of the last epoch on {first["test_images"]:,} test images: mean ± standard deviation over the seeds.
- Runs whose loss became infinite or not a number are left out: {diverged}.
- "more than none" is the difference of means in points ± its standard error, from the variance over seeds of all rows.
- Bold is more than {BAR:g} standard errors. With p = 0.05, at least one of ten gates that change nothing reaches it.
- Times are medians and quartiles of {TURNS} turns in one process with batches of {BATCH}, divided by those of none.
- Training steps use bfloat16 autocast, `accelerate` and channels_last. Inference is also fused, all in bfloat16.
- Times were measured on {described(record)}, threads: {record["machine"]["threads"]}.

{markdown(COLUMNS, lines)}
Significantly better than none, and better than every gate with a shorter training step: {names}.
"""


def main() -> int:
    """Run the command line; the exit status is 0, or 2 for a command that cannot work."""
    parser = Parser(Path(__file__).name, __doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="--output of `cifarblocks sweep attentions`")
    folder = parser.parse_args().folder

    def work() -> None:
        record = sweeps.read(folder)
        if record["grid"] != "attentions":
            raise UserError(f"FOLDER must be runs of the grid attentions, got {folder}")
        record |= {"times": measure([gate(row) for row in sweeps.rows(record)])} | surroundings()
        print(table(record))
        write("attentions", record, table(record))

    keep_freed_memory()
    return exit_status(Path(__file__).name, work, "the same command writes all")


if __name__ == "__main__":
    sys.exit(main())
