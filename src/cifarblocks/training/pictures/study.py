"""The picture of a study: the loss of each value, and the curves of the trials."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from cifarblocks.training.atomic import save_figure
from cifarblocks.training.compare.launch import Settings
from cifarblocks.training.compare.space import Space
from cifarblocks.training.pictures.compare import GREY, empty_figure, finish
from cifarblocks.training.pictures.text import drawable

OURS, BEST = "#1f5fbf", "#c0392b"
LONGEST = 30  # characters of a value that fit its place


def draw_study(path: Path, title: str, trials: list[FrozenTrial], space: Space) -> None:
    """Draw the lowest validation loss against each value, and the losses after each epoch; pruned trials are hollow."""
    lowest = {trial.number: min(finite(trial)) for trial in trials if finite(trial)}
    trials = [trial for trial in trials if trial.number in lowest]
    if not trials:
        return
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: lowest[trial.number], default=None)
    figure = empty_figure(title, 4.5 * (len(space) + 1), 4.8)
    panels = figure.subplots(1, len(space) + 1, sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, space, strict=False):
        for trial in trials:
            color = BEST if trial is best else OURS
            face = color if trial.state == TrialState.COMPLETE else "none"
            value = trial.params[key]
            place = drawable(value, LONGEST) if isinstance(value, str) else value
            axes.plot(place, lowest[trial.number], "o", color=color, markerfacecolor=face)
        name_values(axes, key, space)
    draw_curves(panels[-1], trials, best)
    high, low = max(lowest.values()), min(lowest.values())
    margin = 0.08 * (high - low) + 1e-3
    panels[0].set(ylabel="lowest validation loss", ylim=(low - margin, high + margin))
    if high > 5 * low:
        panels[0].set(yscale="log", ylim=(low / 1.1, high * 1.1))
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    add_legend(panels[0], best)
    finish(figure, *panels)
    save_figure(figure, path)


def name_values(axes: Axes, key: str, space: Space) -> None:
    """Label the axis of an option, on the scale on which it was searched."""
    axes.set_xlabel(drawable(key))
    if isinstance(space[key], CategoricalDistribution):
        axes.margins(x=0.2)
    elif space[key].log:
        low, high = space[key].low, space[key].high
        axes.set(xscale="log", xlim=(low * (low / high) ** 0.05, high * (high / low) ** 0.05))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.05 * (space[key].high - space[key].low)
        axes.set_xlim(space[key].low - margin, space[key].high + margin)


def draw_curves(axes: Axes, trials: list[FrozenTrial], best: FrozenTrial | None) -> None:
    """Draw the validation loss after each epoch, a line a trial."""
    for trial in sorted(trials, key=lambda trial: trial is best):
        color, width = (BEST, 2.0) if trial is best else (GREY, 1.0)
        epochs, losses = zip(*trial.intermediate_values.items(), strict=True)
        axes.plot(epochs, losses, "o-", color=color, lw=width, markersize=3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def add_legend(axes: Axes, best: FrozenTrial | None) -> None:
    """Add a legend of the marks."""
    axes.plot([], [], "o", color=OURS, label="trial")
    axes.plot([], [], "o", color=OURS, markerfacecolor="none", label="pruned trial")
    if best is not None:
        values: Settings = best.user_attrs["values"]
        label = "\n".join(drawable(f"{key.rpartition('.')[2]} {value}", LONGEST) for key, value in values.items())
        axes.plot([], [], "o", color=BEST, label=f"best:\n{label}")


def finite(trial: FrozenTrial) -> list[float]:
    """Return the losses of a trial that are finite."""
    return [loss for loss in trial.intermediate_values.values() if math.isfinite(loss)]
