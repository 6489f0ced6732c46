"""Pictures of the results of several runs: accuracy against multiply-adds, learning curves, a bar per family."""

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import textalloc
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cifarblocks.training.atomic import save_figure
from cifarblocks.training.compare.table import Row, mean_and_deviation, ranked
from cifarblocks.training.pictures.text import TITLE, drawable

MANY = 10  # number of rows with distinguishable colours
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # so that no line crosses a label
GREY, TEST = "#8a8f98", "test top-1 of the last epoch (%)"


def draw_pareto_front(path: Path, title: str, rows: list[Row]) -> Figure:
    """Draw accuracy against multiply-adds, every point labelled, the Pareto front joined; return the figure.

    Rows at the same point have one label of several lines.
    """
    figure = empty_figure(title, 11, 7)
    axes = figure.subplots()
    front = pareto_front(rows)
    costs, heights = [row.multiply_adds for row in front], [row.top1 for row in front]
    if len(front) > 1:
        axes.step(costs, heights, where="post", color=GREY, lw=1, zorder=1, label="Pareto front")
    for family, color in colors(row.family for row in ranked(rows)).items():
        members = [row for row in rows if row.family == family]
        costs, heights = [row.multiply_adds for row in members], [row.top1 for row in members]
        axes.errorbar(costs, heights, [deviation(row) for row in members], fmt="none", ecolor=color, elinewidth=1)
        axes.scatter(costs, heights, color=color, zorder=4, label=family)  # above the white behind the labels
    axes.set(xscale="log", xlabel="multiply-adds of one image (millions)", ylabel=TEST)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.12, 0.1)
    finish(figure, axes)
    names: dict[tuple[float, float], list[str]] = {}
    for row in [*front, *(row for row in ranked(rows) if row not in front)]:
        names.setdefault((row.multiply_adds, row.top1), []).append(drawable(row.label))
    label_points(axes, list(names), ["\n".join(labels) for labels in names.values()])
    save_figure(figure, path)
    return figure


def label_points(axes: Axes, points: list[tuple[float, float]], labels: list[str]) -> None:
    """Write each label near its point without overlap, joined by a line; earlier labels are placed first."""
    x, y = ([point[axis] for point in points] for axis in (0, 1))
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # before the lines are drawn, which would change them
    textalloc.allocate(
        axes, x, y, labels, x_scatter=x, y_scatter=y, textsize=7.5, bbox=PLAIN, margin=0.005, min_distance=0.01,
        max_distance=0.3, linecolor="black", linewidth=0.6, plot_kwargs={"zorder": 1},
    )  # fmt: skip


def pareto_front(rows: list[Row]) -> list[Row]:
    """Return the rows that no row with at most as many multiply-adds surpasses, sorted by multiply-adds."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.multiply_adds, -row.top1)):
        if not front or row.top1 > front[-1].top1:
            front.append(row)
    return front


def draw_learning_curves(path: Path, title: str, rows: list[Row]) -> Figure:
    """Draw loss and top-1 after each epoch, the mean over the seeds; over seconds if the runs differ in epochs."""
    figure = empty_figure(title, 12, 5.5)
    validated = all(history[0]["validation_loss"] is not None for row in rows for history in row.histories)
    part = "validation" if validated else "train"
    by_epoch = len({len(history) for row in rows for history in row.histories}) == 1
    names = {row.label: row.label if len(rows) <= MANY else row.family for row in ranked(rows)}
    palette = colors(names.values())
    panels = figure.subplots(1, 2)
    for axes, (key, label) in zip(panels, {"loss": "loss", "top1": "top-1 (%)"}.items(), strict=True):
        for row in ranked(rows):
            places = means([[line["epoch"] for line in h] if by_epoch else elapsed(h) for h in row.histories])
            values = means([[line[f"{part}_{key}"] for line in history] for history in row.histories])
            axes.plot(places, values, "o-", color=palette[names[row.label]], markersize=3, lw=1.2, alpha=0.8)
        axes.set(xlabel="epoch" if by_epoch else "seconds", ylabel=f"{part} {label}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for name, color in palette.items():
        panels[0].plot([], [], color=color, label=drawable(name))
    finish(figure, *panels)
    save_figure(figure, path)
    return figure


def elapsed(history: list[dict[str, Any]]) -> list[float]:
    """Return the seconds of training and validation at the end of each epoch."""
    return list(accumulate(line["seconds"] for line in history))


def means(lines: list[list[float]]) -> list[float]:
    """Return the mean over the seeds at each epoch that all of them have."""
    return [fmean(values) for values in zip(*lines, strict=False)]


def draw_bars(path: Path, title: str, rows: list[Row]) -> None:
    """Draw a bar for each row, and a dot for each seed.

    With many rows, draw a bar for the best of each family on the validation images, and a dot for each of the others.
    """
    palette = colors(row.family for row in ranked(rows))
    if len(rows) > MANY:
        members = {family: [row for row in ranked(rows) if row.family == family] for family in palette}
        bars = ranked(max(family, key=lambda row: row.selecting) for family in members.values())
        dots = [[row.top1 for row in members[bar.family]] for bar in bars]
        names = [f"{bar.family}: {bar.label}" for bar in bars]
        seen = "bars: best on validation images; dots: all of the family"
    else:
        bars = ranked(rows)
        dots = [bar.values("test_top1") for bar in bars]
        names, seen = [bar.label for bar in bars], "dots: each seed"
    figure = empty_figure(title, 10, 1.5 + 0.4 * len(bars))
    axes = figure.subplots()
    axes.barh(range(len(bars)), [bar.top1 for bar in bars], color=[palette[bar.family] for bar in bars], alpha=0.75)
    for place, (bar, values) in enumerate(zip(bars, dots, strict=True)):
        if deviation(bar):
            axes.errorbar([bar.top1], [place], xerr=[deviation(bar)], color="black", lw=1, capsize=3)
        axes.plot(values, [place] * len(values), "o", color="black", markersize=3, alpha=0.6)
        axes.text(1.005, place, f"{bar.top1:.2f} %", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(bars)), [drawable(name) for name in names])
    axes.invert_yaxis()
    lowest = min(min(values) - deviation(bar) for bar, values in zip(bars, dots, strict=True))
    highest = max(max(*values, bar.top1 + deviation(bar)) for bar, values in zip(bars, dots, strict=True))
    axes.set_xlim(max(0, lowest - 0.3 * (highest - lowest) - 1), min(100, highest + 1))
    axes.set_xlabel(f"{TEST}; {seen}")
    finish(figure, axes)
    save_figure(figure, path)


def deviation(row: Row) -> float:
    """Return the standard deviation of the test top-1 over the seeds; 0 for one seed."""
    return mean_and_deviation(row.values("test_top1"))[1] or 0.0


def colors(names: Iterable[str]) -> dict[str, Any]:
    """Return a colour for each name, in the order in which they come first."""
    different = list(dict.fromkeys(names))
    palette = colormaps["tab10" if len(different) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return {name: palette[number % len(palette)] for number, name in enumerate(different)}


def empty_figure(title: str, width: float, height: float) -> Figure:
    """Make a figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    figure.suptitle(drawable(title, TITLE))
    return figure


def finish(figure: Figure, *panels: Axes) -> None:
    """Add a grid and one legend for all panels, and remove the frames."""
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if panels[0].get_legend_handles_labels()[0]:
        figure.legend(frameon=False, loc="outside right upper")
