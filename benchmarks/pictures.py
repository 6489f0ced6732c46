"""The tables of speed as pictures, for docs/performance.md.

    python benchmarks/pictures.py

Reads benchmarks/results/train_step.json and inference.json; writes docs/train_step.png and docs/inference.png. Takes
two seconds.
"""

import json
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measuring import PAGES, RESULTS
from peers import PEERS

PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # so that no line crosses a number
OURS, BESIDE, GOAL = "#1f5fbf", "#8a8f98", "#c0392b"


def read(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a result by their networks, in the order of the table."""
    rows = {row["name"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]}
    return {network: rows[network] for network in PEERS if network in rows}


def bars(axes: Axes, kinds: dict[str, tuple[str, list[float]]], goals: list[float], networks: list[str]) -> None:
    """A group of bars for each network, a line at 1, a tick at each goal."""
    height = 0.8 / len(kinds)
    for place, (label, (color, values)) in enumerate(kinds.items()):
        positions = [row + height * (place - (len(kinds) - 1) / 2) for row in range(len(networks))]
        axes.barh(positions, values, height * 0.92, color=color, label=label)
        for position, value in zip(positions, values, strict=True):
            axes.text(value + 0.04, position, f"{value:.1f}", va="center", fontsize=7, color=color, bbox=PLAIN)
    for row, goal in enumerate(goals):
        axes.plot([goal, goal], [row - 0.45, row + 0.45], color=GOAL, lw=1.5, label="goal" if row == 0 else None)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(len(networks) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def train_step() -> Figure:
    """Speed-ups of a training step."""
    rows = read("train_step")
    figure = Figure(figsize=(8, 5.5), layout="constrained", dpi=130)
    axes = figure.subplots()
    kinds = {
        "the owner's defaults: float32, contiguous": (OURS, [row["speedup"] for row in rows.values()]),
        "the owner's network with the settings of ours": (BESIDE, [row["speedup_alike"] for row in rows.values()]),
    }
    bars(axes, kinds, [PEERS[network].goal for network in rows], list(rows))
    axes.set_title("A training step: how many times as fast ours is", loc="left")
    axes.set_xlabel("times as fast as")
    axes.legend(frameon=False, loc="lower right")
    return figure


def inference() -> Figure:
    """Speed-ups of inference at both batch sizes."""
    rows = read("inference")
    figure = Figure(figsize=(12, 5.5), layout="constrained", dpi=130)
    for axes, batch, goal in zip(figure.subplots(1, 2, sharey=True), ("256", "1"), (3.0, 1.5), strict=True):
        kinds = {
            "ours: fused, bfloat16, channels_last": (OURS, [row[batch]["ours"] for row in rows.values()]),
            "torch.compile of ours": ("#7fa8e0", [row[batch]["compiled"] for row in rows.values()]),
            "ONNX Runtime, ours fused, float32": (BESIDE, [row[batch]["onnx"] for row in rows.values()]),
        }
        bars(axes, kinds, [goal] * len(rows), list(rows))
        axes.set_title(f"Batch {batch}", loc="left")
        axes.set_xlabel("times as fast as the owner's network, eager, float32")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Draw and write."""
    for draw in (train_step, inference):
        draw().savefig(PAGES / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
