"""Picture of a model's mistakes: the confusion matrix, and the test images with the worst mistakes."""

import math
from itertools import zip_longest
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cifarblocks.training.atomic import save_figure
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.pictures.text import TITLE, drawable

SHOWN = 20
LONGEST = 14  # characters of a class name that fit their place


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count the images of each true class (rows) and predicted class (columns), (classes, classes).

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def worst_mistakes(labels: Tensor, outcomes: Tensor) -> list[int]:
    """Return the images with a wrong predicted class, sorted by the probability of the true class, the lowest first.

    Args:
        labels: (n,) the true classes.
        outcomes: (n, 3) the predicted class, its probability, and that of the true class.
    """
    wrong = torch.nonzero(outcomes[:, 0].long() != labels).squeeze(1)
    return wrong[outcomes[wrong, 2].argsort(stable=True)][:SHOWN].tolist()


def draw_mistakes(path: Path, title: str, images: Images, outcomes: Tensor, classes: list[str]) -> Figure:
    """Draw both, and return the figure.

    Args:
        path: the PNG file.
        title: names of the model and the data.
        images: the test images.
        outcomes: (n, 3), as `all_outcomes` gives them.
        classes: the names.
    """
    chosen = worst_mistakes(images.labels, outcomes)
    figure = Figure(figsize=(14 if chosen else 7.5, 7), layout="constrained", dpi=130)
    figure.suptitle(drawable(title, TITLE) + ("" if chosen else ": no mistakes"))
    classes = [drawable(name, LONGEST) for name in classes]
    left, *right = figure.subfigures(1, 2 if chosen else 1, squeeze=False)[0]
    draw_confusion(left.subplots(), confusion(images.labels, outcomes[:, 0].long(), len(classes)), classes)
    if chosen:
        right[0].suptitle("the worst mistakes: true → predicted class, and the probability of each")
        columns = min(5, math.ceil(len(chosen) ** 0.5))
        places = right[0].subplots(math.ceil(len(chosen) / columns), columns, squeeze=False).flat
        for axes, index in zip_longest(places, chosen):
            axes.axis("off")
            if index is not None:
                axes.imshow(images.pixels[index].numpy())
                predicted, *probabilities = outcomes[index].tolist()
                names = [classes[number] for number in (int(images.labels[index]), int(predicted))]
                of_predicted, of_true = (f"{100 * probability:.0f} %" for probability in probabilities)
                axes.set_title(f"{names[0]}, {of_true} →\n{names[1]}, {of_predicted}", fontsize=8)
    save_figure(figure, path)
    return figure


def draw_confusion(axes: Axes, counts: Tensor, classes: list[str]) -> None:
    """Draw the matrix in shares of each true class, with counts and names if there is room for them."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(classes) > 20:
        return
    places, long = range(len(classes)), max(map(len, classes)) > 3
    axes.set_xticks(places, classes, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(places, classes)
    size = 8 if len(classes) > 5 else 14
    for row, column in torch.nonzero(counts).tolist():
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=size)
