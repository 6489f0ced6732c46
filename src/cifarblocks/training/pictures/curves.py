"""The picture of a run: loss and accuracy over the epochs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cifarblocks.training.atomic import save_figure
from cifarblocks.training.pictures.text import TITLE, drawable

TRAINING, VALIDATION, AVERAGE = "#8a8f98", "#1f5fbf", "#c8651b"


def draw_curves(path: Path, title: str, history: list[dict[str, Any]], test_top1: float | None = None) -> Figure:
    """Draw the lines of metrics.jsonl, and the test accuracy if it is known; return the figure.

    Args:
        path: the PNG file.
        title: names of the model and the data.
        history: a dictionary an epoch.
        test_top1: in percent.
    """
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=150)
    figure.suptitle(drawable(title, TITLE))
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) <= 30 else None
    loss, accuracy = figure.subplots(1, 2)

    for axes, key in ((loss, "loss"), (accuracy, "top1")):
        lines = {"train": (TRAINING, "training"), "validation": (VALIDATION, "validation")}
        lines["average_validation"] = (AVERAGE, "validation, averaged weights")
        for part, (color, label) in lines.items():
            if history[0].get(f"{part}_{key}") is not None:
                values = [line[f"{part}_{key}"] for line in history]
                axes.plot(epochs, values, color=color, marker=marker, markersize=4, label=label)
    if test_top1 is not None:
        accuracy.axhline(test_top1, color="black", lw=1, ls="--", label=f"test, last epoch: {test_top1:.2f} %")

    low, high = loss.dataLim.intervaly
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    if high > 10 * low > 0:
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_minor_formatter(NullFormatter())
    loss.yaxis.set_major_formatter("{x:g}")
    accuracy.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(None, 102))
    for axes in (loss, accuracy):
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="best")
    save_figure(figure, path)
    return figure
