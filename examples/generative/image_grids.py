"""Pictures of many small images in rows."""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from cifarblocks.training.atomic import save_figure
from cifarblocks.training.pictures.text import drawable

CELL, DPI, GAP = 0.42, 150, 1  # inches of an image, dots an inch, pixels of the images between two of them


def draw_grid(
    path: Path, pixels: Tensor, values: int, title: str, rows: Sequence[str], columns: Sequence[str] = ()
) -> None:
    """Draw images in rows, each pixel a square.

    Args:
        path: the PNG file.
        pixels: (rows, columns, h, w, c) uint8, grey or RGB.
        values: number of values that a pixel can have.
        title: title of the picture.
        rows: labels at the left of the rows.
        columns: labels below the columns, or none.
    """
    shown = 255 - 255 * pixels.float() / (values - 1) if pixels.shape[-1] == 1 else pixels.float()
    tiles = F.pad(shown, (0, 0, 0, GAP, 0, GAP), value=255)
    sheet = rearrange(tiles, "r k h w c -> (r h) (k w) c")[:-GAP, :-GAP] / 255
    count, across, size = pixels.shape[:3]

    height = CELL * count + (0.6 if columns else 0.4)
    figure = Figure(figsize=(CELL * across + 1.4, height), layout="constrained", dpi=max(DPI, size / CELL))
    axes = figure.subplots()
    axes.imshow(sheet.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, loc="left")
    step = size + GAP
    axes.set_yticks(
        [(size - 1) / 2 + step * row for row in range(count)], [drawable(name) for name in rows], fontsize=8
    )
    places = [(size - 1) / 2 + step * column for column in range(len(columns))]
    axes.set_xticks(places, [drawable(name) for name in columns], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save_figure(figure, path)
