"""Make every table and picture from the records in benchmarks/results, without measuring anything.

    python benchmarks/pictures.py

Writes a Markdown file beside each JSON file, and the pictures of docs/performance.md and docs/leaderboard.md to docs.
Takes some seconds.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import sweeps
from loss_curves import WINDOW, smoothed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measuring import PAGES, RESULTS, read_record, read_records, typed
from peers import INFERENCE_GOALS, TRAINING_GOALS
from scale import SIZES

from cifarblocks.training.pictures.compare import draw_pareto_front

GRIDS = ("equal_epochs", "layer_scale", "leaderboard", "optimizer")
SCRIPTS = {"speedrun": "speedruns"} | dict.fromkeys(GRIDS, "sweeps")
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # so that no line crosses a number
OURS, IN_FLOAT32, COMPILED, BESIDE, GOAL = "#1f5fbf", "#2a9d8f", "#5b8fdb", "#6f7680", "#c0392b"
START_GOAL, RECORD_GOALS = 1.5, [(3, 88), (7, 93)]  # ratio of times; minutes and percent
POWERS = {1: "size", 2: "size²", 4: "size⁴"}
GROWTH = {"batch": (1,), "width": (1, 2), "depth": (1,), "image size": (2, 4)}  # exponents of the growth of time
Bars = dict[str, tuple[str, list[float], Sequence[list[float]] | None]]  # label → colour, values, quartiles


def bars(axes: Axes, kinds: Bars, goals: list[float], networks: list[str]) -> None:
    """Draw a group of bars for each network, a line at 1, and a tick at each goal."""
    height = 0.8 / len(kinds)
    for place, (label, (color, values, quartiles)) in enumerate(kinds.items()):
        positions = [row + height * (place - (len(kinds) - 1) / 2) for row in range(len(networks))]
        axes.barh(positions, values, height * 0.92, color=color, label=label)
        ends = values
        if quartiles:
            axes.hlines(positions, [first for first, _, _ in quartiles], [q[2] for q in quartiles], color="black", lw=1)
            ends = [max(value, third) for value, (_, _, third) in zip(values, quartiles, strict=True)]
        for position, value, end in zip(positions, values, ends, strict=True):
            axes.text(end + 0.04, position, f"{value:.2f}", va="center", fontsize=8, color=color, bbox=PLAIN)
    for row, goal in enumerate(goals):
        axes.plot([goal, goal], [row - 0.45, row + 0.45], color=GOAL, lw=1.5, label="goal" if row == 0 else None)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(len(networks) - 0.4, -0.6)
    axes.set_xlim(left=0)
    tidy(axes)


def tidy(axes: Axes) -> None:
    """Remove the sides of the frame that have no scale."""
    axes.spines[["top", "right"]].set_visible(False)


def train_step() -> Figure:
    """Draw the speed-ups of a training step, with a panel for each kind of processor."""
    records = read_records("train_step")
    figure = Figure(figsize=(12, 6.5), layout="constrained", dpi=130)
    for axes, record in zip(figure.subplots(1, len(records), sharey=True, squeeze=False).flat, records, strict=True):
        rows = record["rows"]
        kinds: Bars = {
            "the reference at its defaults: float32, contiguous": (
                OURS, [row["speedup"] for row in rows], [row["quartiles"] for row in rows]
            ),
            "the reference with the settings of ours": (
                BESIDE, [row["speedup_alike"] for row in rows], [row["quartiles_alike"] for row in rows]
            ),
        }  # fmt: skip
        names = [row["name"] for row in rows]
        bars(axes, kinds, [TRAINING_GOALS[record["processor"]][name] for name in names], names)
        axes.set_title(where(record), loc="left")
        axes.set_xlabel("times as fast as the reference network; black: quartiles")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def inference() -> Figure:
    """Draw the speed-ups of inference, with a column for each batch size and a row for each kind of processor."""
    records = read_records("inference")
    panels = [(record, batch) for record in records for batch in INFERENCE_GOALS]
    figure = Figure(figsize=(12, 8 * len(records)), layout="constrained", dpi=130)
    grid = figure.subplots(len(records), len(INFERENCE_GOALS), sharey=True, squeeze=False)
    for axes, (record, batch) in zip(grid.flat, panels, strict=True):
        rows, goals = record["rows"], INFERENCE_GOALS[batch][record["processor"]]
        cells = [row[str(batch)] for row in rows]
        kinds: Bars = {
            "ours: fused, bfloat16, channels_last": (
                OURS, [cell["ours"] for cell in cells], [cell["quartiles"] for cell in cells]
            ),
            "ours: fused, float32, channels_last": (IN_FLOAT32, [cell["float32"] for cell in cells], None),
            "torch.compile of ours in bfloat16": (COMPILED, [cell["compiled"] for cell in cells], None),
            "ONNX Runtime, ours fused, float32": (BESIDE, [cell["onnx"] for cell in cells], None),
        }  # fmt: skip
        bars(axes, kinds, [goals[row["name"]] for row in rows], [row["name"] for row in rows])
        axes.set_title(f"Batch {batch}, {where(record)}", loc="left")
        axes.set_xlabel("times as fast as the reference network, eager, float32; black: quartiles")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def where(record: dict[str, Any]) -> str:
    """Name the processor of a record."""
    return f"{record['machine']['cpu'].replace('(R)', '').replace(' Processor', '')}, {record['processor']}"


def scale() -> Figure:
    """Draw the growth of time (above) and memory (below) with each size, beside powers of the size."""
    rows = read_record("scale")["rows"]
    figure = Figure(figsize=(13, 7), layout="constrained", dpi=130)
    grid = figure.subplots(2, len(SIZES), sharey="row")
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    styles = {block: (f"C{place}", "osD^vPX*"[place]) for place, block in enumerate(blocks)}
    for column, (axis, sizes) in enumerate(SIZES.items()):
        for axes, kind in zip(grid[:, column], ("time", "memory"), strict=True):
            for power in GROWTH[axis]:
                axes.plot(sizes, [(size / sizes[0]) ** power for size in sizes], "k:", lw=1)
                end = (sizes[-1], (sizes[-1] / sizes[0]) ** power)
                axes.annotate(POWERS[power], end, (-4, 4), textcoords="offset points", ha="right", fontsize=8)
            for row in rows:
                if row["axis"] == axis:
                    color, marker = styles[row["block"]]
                    axes.plot(sizes, row[kind], marker=marker, ms=4, lw=1.3, color=color, label=row["block"])
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.grid(alpha=0.25)
            tidy(axes)
        grid[0, column].set_title(axis)
    grid[0, 0].set_ylabel("time, times the first")
    grid[1, 0].set_ylabel("peak memory, times the first")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(blocks), frameon=False)
    return figure


def loss_curves() -> Figure:
    """Draw the losses, with a panel for each network."""
    rows = read_record("loss_curves")["rows"]
    figure = Figure(figsize=(13, 5.4), layout="constrained", dpi=130)
    grid = figure.subplots(2, (len(rows) + 1) // 2, sharex=True, squeeze=False).flat
    kinds = {
        "reference": (BESIDE, "-", 3.0, "reference, float32"),
        "reference_bfloat16": ("black", ":", 1.2, "reference, bfloat16"),
        "ours": (OURS, "-", 1.2, "ours, bfloat16"),
    }
    for axes, row in zip(grid, rows, strict=False):
        for kind, (color, style, width, label) in kinds.items():
            curve = smoothed(row[kind])
            axes.plot(range(1, len(curve) + 1), curve, style, color=color, lw=width, label=label)
        axes.set_title(row["name"], fontsize=10)
        axes.set_ylim(bottom=0)
        tidy(axes)
    figure.supxlabel("training step")
    figure.supylabel(f"cross-entropy, mean of {WINDOW} steps")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def start() -> Figure:
    """Draw the time to build each network, divided by that of the same network in timm or torchvision."""
    building = read_record("start")["building"]
    figure = Figure(figsize=(9, 5.5), layout="constrained", dpi=130)
    axes = figure.subplots()
    ratios, quartiles = ([row[key] for row in building.values()] for key in ("ratio", "quartiles"))
    bars(axes, {"ours": (OURS, ratios, quartiles)}, [START_GOAL] * len(building), list(building))
    axes.set_title("create_model: time against the same class of timm or torchvision", loc="left")
    axes.set_xlabel("times as long; black: quartiles; red: the goal, at most")
    return figure


def speedrun() -> Figure:
    """Draw top-1 against minutes for each seed of the record, and the goals."""
    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=130)
    axes = figure.subplots()
    for place, seeds in enumerate(read_record("speedrun")):
        minutes, top1 = ([seed[key] / unit for seed in seeds] for key, unit in (("seconds", 60), ("top1", 1)))
        axes.plot(
            minutes, top1, "o", color=f"C{place}", label=f"--target {seeds[0]['options']['target']}, a dot a seed"
        )
    axes.plot(*zip(*RECORD_GOALS, strict=True), "*", ms=12, color=GOAL, label="goal: this, or further up and left")
    axes.set(xlim=(0, 8), ylim=(86, 94), xlabel="minutes of training", ylabel="test top-1 (%), CIFAR-10 (JPEG copies)")
    axes.grid(alpha=0.25)
    tidy(axes)
    axes.legend(frameon=False, loc="upper left")
    return figure


def table(name: str) -> str:
    """Return the page of `results/name.json`, made by the script that writes it."""
    script = name.partition(".")[0]
    return str(import_module(SCRIPTS.get(script, script)).table(read_record(name)))


def main() -> None:
    """Write all tables and pictures."""
    for path in RESULTS.glob("*.json"):
        path.with_suffix(".md").write_text(table(path.stem))
    title = "CIFAR-10 (JPEG copies): as many seconds of training for each as resnet_20 needs for 6 epochs"
    draw_pareto_front(PAGES / "leaderboard.png", title, sweeps.rows(read_record("leaderboard")))
    for draw in (train_step, inference, scale, loss_curves, start, speedrun):
        draw().savefig(PAGES / f"{draw.__name__}.png")


if __name__ == "__main__":
    typed(__doc__)
    main()
