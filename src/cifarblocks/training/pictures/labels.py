"""Labels beside the points of a picture, none over another or over a point."""

import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

Point = tuple[float, float]
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # so that no line crosses a label


def place_labels(axes: Axes, points: list[Point], labels: list[str], size: float = 7.5) -> None:
    """Write each label at the nearest place that is free, with a line to its point where that is not beside it.

    Args:
        axes: of a figure with an Agg canvas, its limits settled.
        points: in the units of the data; at the same distance from their points, the labels of the first choose first.
        labels: one a point.
        size: of the letters.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    centers = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in centers]
    texts = []
    for point, label in zip(points, labels, strict=True):
        text = axes.annotate(label, point, (0, 0), textcoords="offset pixels", fontsize=size, bbox=PLAIN)
        text.set_in_layout(False)
        texts.append(text)
    extents = [text.get_window_extent() for text in texts]
    boxes = [next(around(center, extent, 11)) for center, extent in zip(centers, extents, strict=True)]
    waiting = list(range(len(texts)))
    for distance in range(11, 220, 7):
        for number in waiting.copy():
            places = around(centers[number], extents[number], distance)
            box = next((place for place in places if is_free(place, axes.bbox, taken)), None)
            if box:
                boxes[number] = box
                taken.append(box.padded(4))
                waiting.remove(number)
    for (x, y), text, extent, box in zip(centers, texts, extents, boxes, strict=True):
        text.set_position((box.x0 - x, box.y0 - extent.y0))
        near = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        if math.dist((x, y), near) > 14:
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*ends.T, color="black", lw=0.6, alpha=0.7, zorder=1, scalex=False, scaley=False)


def around(center: Point, extent: Bbox, distance: float) -> Iterator[Bbox]:
    """Yield boxes in pixels for a label, on an ellipse around its point, first to the right of it."""
    (x, y), width, height = center, extent.width, extent.height
    for number in range(16):
        angle = 2 * math.pi * (number // 2 + number % 2) * (-1) ** number / 16
        across, up = math.cos(angle), math.sin(angle)
        left = x + distance * across - width * (1 - across) / 2
        bottom = y + distance * up - height * (1 - up) / 2
        yield Bbox.from_bounds(left, bottom, width, height)


def is_free(box: Bbox, within: Bbox, taken: list[Bbox]) -> bool:
    """Return True if a label fits there."""
    inside = within.x0 <= box.x0 and box.x1 <= within.x1 and within.y0 <= box.y0 and box.y1 <= within.y1
    return inside and not any(box.overlaps(other) for other in taken)
