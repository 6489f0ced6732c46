"""The gallery of blocks, one page of Markdown made from their docstrings: `python docs/gallery.py > gallery.md`.

`mkdocs build` makes it by itself, see pages.py. A block stands in the group of its file, or under Others.
"""

import inspect
import re
import textwrap
from pathlib import Path

from flow import picture
from torch import nn

from cifarblocks import blocks

GROUPS = {
    "Channel gates": ["eca", "se", "global_context", "split_attention", "selective_kernel"],
    "Channel and spatial gates": ["cbam", "coordinate_attention", "simam", "triplet_attention"],
    "Spatial attention": ["msca", "lsk", "attention", "relative_attention", "transformer"],
    "Convolutions": ["ghost", "mbconv", "gnconv"],
    "Residual blocks": ["residual", "convnext", "csp", "mixer"],
    "Small parts": ["basic"],
}
HEAD = """# Gallery

Every block of `cifarblocks.blocks`, from its docstring. Each picture is drawn from a run of the example beside it, in
training mode, with the sizes of the example. A blue box is a layer with parameters, an orange box a parameter. Sizes
are b (batch), c (channels), h·w (map) and n (tokens). One multiplication with its addition is one multiply-add;
normalisation, activations, pooling, element-wise products and Fourier transforms are not counted.
"""
DISAGREEMENTS = Path(__file__).with_name("disagreements.md")


def page() -> str:
    """The whole page: what there is at a glance, then an entry for each block."""
    contents, sections = [], []
    for title, members in by_group().items():
        contents.append(f"- {title}: {', '.join(f'[{b.__name__}](#{b.__name__.lower()})' for b in members)}")
        sections.append("\n\n".join([f"## {title}", *map(entry, members)]))
    return "\n\n".join([HEAD, "\n".join(contents), *sections])


def by_group(files_of_groups: dict[str, list[str]] = GROUPS) -> dict[str, list[type[nn.Module]]]:
    """The blocks of each group, in the order of their files and of the lines in them."""
    titles = {file: title for title, files in files_of_groups.items() for file in files}
    order = [*titles, *sorted({file_of(getattr(blocks, name)) for name in blocks.__all__} - set(titles))]
    groups: dict[str, list[type[nn.Module]]] = {titles.get(file, "Others"): [] for file in order}
    for block in sorted(
        (getattr(blocks, name) for name in blocks.__all__),
        key=lambda block: (order.index(file_of(block)), inspect.getsourcelines(block)[1]),
    ):
        groups[titles.get(file_of(block), "Others")].append(block)
    return groups


def file_of(block: type[nn.Module]) -> str:
    """The name of the block's file: "eca"."""
    return block.__module__.split(".")[-1]


def entry(block: type[nn.Module]) -> str:
    """All about one block."""
    about = read(block)
    svg = picture(block)
    place = "flow beside" if int(svg.split('width="')[1].split('"')[0]) <= 420 else "flow"  # pixels
    arguments = re.findall(r"^(\w+): (.*(?:\n +.*)*)", about.get("Args", ""), flags=re.MULTILINE)
    parts = [
        f"### {block.__name__} {{ #{block.__name__.lower()} }}",
        f"*{links(about['paper'])}*",
        f'<figure class="{place}">\n{svg}\n</figure>',
        links(about["description"]),
        f"```text\n{about['Formula']}\n```",
        f"```python\n{signature(block)}\n```",
        "\n".join(f"- `{name}`: {' '.join(meaning.split())}" for name, meaning in arguments),
        f"```pycon\n{about['example']}\n```",
        *(f"**{label}:** {links(about[label])}" for label in ("Shape", "Cost", "Origin")),
    ]
    if f"{{ #{file_of(block)} }}" in DISAGREEMENTS.read_text():
        parts.append(f"[Where paper, code and libraries disagree](disagreements.md#{file_of(block)})")
    return "\n\n".join(part for part in parts if part)


def read(block: type[nn.Module]) -> dict[str, str]:
    """The paragraphs of a docstring by their labels; those without one are the description and the example.

    Raises:
        ValueError: if one that an entry needs is missing.
    """
    about = {"paper": (inspect.getdoc(inspect.getmodule(block)) or "").split("\n")[0], "description": "", "example": ""}
    for paragraph in (inspect.getdoc(block) or "").split("\n\n"):
        label = re.match(r"(Formula|Origin|Args|Shape|Cost|Raises):[ \n]", paragraph)
        if label:
            about[label[1]] = re.sub(r"^ {4}", "", paragraph[label.end() :], flags=re.MULTILINE)
        else:
            about["example" if paragraph.startswith(">>>") else "description"] += paragraph + "\n\n"
    for part in ("description", "Formula", "Shape", "Cost", "Origin", "example"):
        if not about.get(part):
            raise ValueError(f"{block.__name__}: its docstring has no {part}")
    if "https://" not in about["paper"] + about["description"]:
        raise ValueError(f"{block.__name__}: neither its docstring nor its file's first line has the paper's address")
    return {part: text.strip("\n") for part, text in about.items()}


def signature(block: type[nn.Module]) -> str:
    """The constructor as it is written, its lines broken after commas."""
    source = inspect.getsource(block.__init__)
    arguments = source[source.index("self,") + len("self,") : source.index(") -> None:")]
    flat = f"{block.__name__}({' '.join(arguments.split()).rstrip(',')})"
    return textwrap.fill(re.sub(r" (?!\w+:|\*,)", "\xa0", flat), 60, subsequent_indent="    ").replace("\xa0", " ")


def links(text: str) -> str:
    """Addresses as links."""
    text = re.sub(r"(?:https://arxiv.org/abs/|arXiv )(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<!\()https://[\w./-]*\w", r"<\g<0>>", text)


if __name__ == "__main__":
    print(page())
