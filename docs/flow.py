"""A picture of what flows through a block, as SVG: `python docs/flow.py ECA > eca.svg`.

Boxes stand in rows, each below all that feed it, and in columns, the chain of most boxes in the middle. An edge that
passes rows has a lane of its own, so that nothing overlaps and a shortcut is seen to go around.
"""

import re
import sys
import textwrap
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from recording import Node, record
from torch import nn

from cifarblocks import blocks

CHARACTER, LINE, MARGIN, COLUMN_GAP, ROW_GAP, JOIN = 7.6, 18, 8, 14, 26, 24  # pixels
COLOURS = {"end": "none", "join": "#2e9e6b", "layer": "#4c7bf3", "operation": "#8a8f98", "parameter": "#e08a1e"}


@dataclass(eq=False)
class Box:
    """A node with its place, or, without lines, a bend of an edge that passes a row."""

    kind: str
    lines: list[str]
    row: int
    column: int = 0
    x: float = 0  # of its middle
    y: float = 0  # of its top

    @property
    def width(self) -> float:
        longest = max(map(len, self.lines), default=0)
        return JOIN if self.kind == "join" else longest * CHARACTER + 2 * MARGIN

    @property
    def height(self) -> float:
        return JOIN if self.kind == "join" else len(self.lines) * LINE + MARGIN


Edge = list[Box]  # a box, bends, and the box that it feeds


def picture(block: type[nn.Module]) -> str:
    """The picture as text; its letters take the colour of those around it, so it suits light pages and dark ones."""
    edges = lay_out(record(block))
    boxes = unique(edges)
    width = max(box.x + box.width / 2 for box in boxes) + 2
    height = max(box.y + box.height for box in boxes) + 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width + 2:.0f} {height + 2:.0f}" '
            f'width="{width + 2:.0f}" font-family="sans-serif" font-size="13" text-anchor="middle" role="img">',
            f"<title>What flows through {block.__name__}</title>",
            *(draw_edge(edge, boxes) for edge in edges),
            *(draw_box(box) for box in boxes if box.lines),
            "</svg>",
        ]
    )


def lay_out(nodes: list[Node]) -> list[Edge]:
    """Give every node its place."""
    rows = choose_rows(nodes)
    boxes = {node: Box(node.kind, [part for line in node.lines for part in fold(line)], rows[node]) for node in nodes}
    lanes: dict[tuple[Node, Node | None], list[Box]] = {}
    edges = []
    for node in nodes:
        for source in node.sources:  # the edges of one source share a lane, unless they carry parts of a split
            lane = lanes.setdefault((source, node if source.lines == ["split"] else None), [])
            lane += [Box("bend", [], row) for row in range(rows[source] + 1 + len(lane), rows[node])]
            edges.append([boxes[source], *lane[: rows[node] - rows[source] - 1], boxes[node]])
    choose_columns(edges)
    choose_positions(unique(edges))
    return edges


def fold(line: str) -> list[str]:
    """A long line in two, after a comma."""
    return textwrap.wrap(re.sub("(?<!,) ", "\xa0", line), 22)


def choose_rows(nodes: list[Node]) -> dict[Node, int]:
    """Below everything that feeds it; a parameter just above what it feeds."""
    rows: dict[Node, int] = {}
    for node in nodes:
        rows[node] = 1 + max((rows[source] for source in node.sources), default=-1)
    for node in nodes:
        if not node.sources and node.kind != "end":
            rows[node] = min(rows[fed] for fed in nodes if node in fed.sources) - 1
    return rows


def choose_columns(edges: list[Edge]) -> None:
    """Chain after chain, those of most boxes first, each to the free column nearest to what it is linked with."""
    links = [link for edge in edges for link in pairwise(edge)]
    left = sorted(unique(edges), key=lambda box: box.row)
    taken: set[tuple[int, int]] = set()
    while left:
        chain = longest_chain(left, links)
        neighbours = [a if b in chain else b for a, b in links if (a in chain) != (b in chain)]
        targets = [box.column for box in neighbours if box not in left]
        column = min(
            (c for c in range(-len(links), len(links)) if not taken & {(box.row, c) for box in chain}),
            key=lambda c: (sum(abs(c - target) for target in targets), abs(c), -c),
        )
        for box in chain:
            box.column = column
        taken |= {(box.row, column) for box in chain}
        left = [box for box in left if box not in chain]


def longest_chain(boxes: list[Box], links: list[tuple[Box, Box]]) -> list[Box]:
    """The chain with the most boxes, then the fewest bends, of boxes sorted by their rows."""

    def order(chain: list[Box]) -> tuple[int, int]:
        return sum(bool(box.lines) for box in chain), -len(chain)

    chains: dict[Box, list[Box]] = {}
    for box in boxes:
        chains[box] = [*max((chains[a] for a, b in links if b is box and a in chains), key=order, default=[]), box]
    ends = set(boxes) - {a for a, b in links if b in chains}
    return max((chains[box] for box in boxes if box in ends), key=order)


def choose_positions(boxes: list[Box]) -> None:
    """Columns as wide, and rows as high, as their largest boxes."""
    left = top = 0.0
    for column in sorted({box.column for box in boxes}):
        members = [box for box in boxes if box.column == column]
        width = max(box.width for box in members)
        for box in members:
            box.x = left + width / 2
        left += width + COLUMN_GAP
    for row in sorted({box.row for box in boxes}):
        members = [box for box in boxes if box.row == row]
        for box in members:
            box.y = top
        top += max(box.height for box in members) + ROW_GAP


def draw_edge(edge: Edge, boxes: list[Box]) -> str:
    """Straight down to the foot of each row, then an S to the next; from another column it ends beside the middle."""
    path = f"M{edge[0].x:.1f},{edge[0].y + edge[0].height:.1f}"
    for a, b in pairwise(edge):
        foot = max(box.y + box.height for box in boxes if box.row == a.row)
        middle = (foot + b.y) / 2
        end = b.x + 6 * ((a.x > b.x) - (a.x < b.x)) * bool(b.lines)
        path += f" V{foot:.1f} C{a.x:.1f},{middle:.1f} {end:.1f},{middle:.1f} {end:.1f},{b.y:.1f}"
    return f'<path d="{path} m-3.5,-6 l3.5,6 l3.5,-6" fill="none" stroke="#8a8f98"/>'


def draw_box(box: Box) -> str:
    """A rounded box and its lines; the name of another block leads to its entry."""
    left, colour, radius = box.x - box.width / 2, COLOURS[box.kind], JOIN / 2 if box.kind == "join" else 6
    parts = [
        f'<rect x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}" '
        f'fill="{colour}" fill-opacity=".15" stroke="{colour}"/>'
    ]
    for i, line in enumerate(box.lines):
        baseline = box.y + (box.height - len(box.lines) * LINE) / 2 + (i + 0.72) * LINE
        text = f'<text x="{box.x:.1f}" y="{baseline:.1f}" fill="currentColor">{escape(line)}</text>'
        parts.append(f'<a href="#{line.lower()}">{text}</a>' if line in blocks.__all__ else text)
    return "".join(parts)


def unique(edges: list[Edge]) -> list[Box]:
    """The boxes and bends of the edges, each once."""
    return list(dict.fromkeys(box for edge in edges for box in edge))


if __name__ == "__main__":
    print(picture(getattr(blocks, sys.argv[1])))
