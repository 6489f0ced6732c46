"""Draw the picture of README.md, docs/blocks.svg: some blocks side by side: `python docs/banner.py`, some seconds.

The letters are of a grey that can be read on light pages and on dark ones.
"""

import re
from pathlib import Path

from flow import picture
from gallery import read

from cifarblocks import blocks

PICTURE = Path(__file__).with_name("blocks.svg")
SHOWN = ("ECA", "GhostModule", "MSCA", "ConvNeXtBlock")
GAP, TITLE, GREY = 36, 58, "#808893"  # pixels


def banner() -> str:
    """Return the picture: each block under its name and its paper's."""
    parts, left, height = [], 0, 0
    for name in SHOWN:
        block = getattr(blocks, name)
        width, tall, body = re.match(
            r'<svg [^>]*viewBox="-2 -2 (\d+) (\d+)"[^>]*>\n<title>.*?</title>\n(.*)</svg>', picture(block), re.DOTALL
        ).groups()  # type: ignore[union-attr]
        paper = read(block)["paper"].split(",")[0].split(":")[0]
        column = max(int(width), 8 * max(len(name), len(paper)))
        middle = left + column / 2
        parts.append(f'<text x="{middle}" y="18" font-size="17" font-weight="600">{name}</text>')
        parts.append(f'<text x="{middle}" y="38">{paper}</text>')
        parts.append(f'<g transform="translate({left + (column - int(width)) / 2} {TITLE})">\n{body}</g>')
        left, height = left + column + GAP, max(height, TITLE + int(tall))
    width = left - GAP + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {width} {height + 8}" width="{width}" '
        f'font-family="sans-serif" font-size="13" text-anchor="middle" fill="{GREY}" color="{GREY}" role="img">\n'
        f"<title>What flows through {', '.join(SHOWN)}</title>\n" + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(banner(), encoding="utf-8")
