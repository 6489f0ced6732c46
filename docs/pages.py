"""Pages of the site that stand elsewhere in the repository, for `hooks` in mkdocs.yml.

The gallery is made from docstrings; README.md, CONTRIBUTING.md, CHANGELOG.md and examples/README.md are copied. Their
links to files that are no pages become plain text. Inline code gets places where a narrow page may break it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import gallery

ROOT = Path(__file__).parents[1]
COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
PLACES = COPIED | {"src/cifarblocks/blocks": "gallery.md"}  # path in the repository → page, where it is not in docs/


def copied(path: str) -> str:
    """Return a file of the repository as a page of the site.

    >>> copied("CONTRIBUTING.md").startswith("# Contributing")
    True
    """
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", lambda link: relinked(path, *link.groups()), read(path))


def read(path: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def relinked(path: str, image: str, label: str, target: str) -> str:
    """Return a link of a file of the repository as it is on the site.

    >>> relinked("examples/README.md", "", "the guide", "../docs/guides/recipes.md#muon")
    '[the guide](guides/recipes.md#muon)'
    >>> relinked("README.md", "", "the digits", "src/digits.md")
    'the digits'
    """
    if re.match(r"https?:|#|mailto:", target):
        return f"{image}[{label}]({target})"
    file, mark, anchor = target.partition("#")
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    page = inside.removeprefix("docs/") if inside.startswith("docs/") else PLACES.get(inside)
    return label if page is None else f"{image}[{label}]({page}{mark}{anchor})"


def breakable(code: str) -> str:
    """Return inline code, as HTML, that breaks after brackets, commas and slashes, and never within an option.

    Names of more than 10 characters break after underscores, in tables of narrow pages only (style.css).

    >>> breakable("f(x, y=model.num_features(5))")
    'f(<wbr>x, y=<wbr>model.<wbr>num_<wbr class="narrow">features(<wbr>5))'
    >>> breakable("train --label-smoothing 0.1")
    'train <span class="whole">--label-smoothing</span> 0.1'
    """
    places = r"[(\[](?=[^)\]])|=(?=[\w&'])|/(?=\w)|,(?=\S)|(?<=[\w)])\.(?=\w{6,})(?!\.?safetensors)"
    code = re.sub(places, r"\g<0><wbr>", code)
    code = re.sub(
        r"(?<![\w-])\w{11,}", lambda name: re.sub(r"(?<=[^_])_(?=[^_])", '_<wbr class="narrow">', name[0]), code
    )
    return re.sub(r"(?<![\w-])--?[a-z][\w-]*", r'<span class="whole">\g<0></span>', code)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Make inline code breakable, and lead links of notebooks to pages."""
    if page.file.src_uri.endswith(".ipynb"):
        output = re.sub(r'(href="[\w/]+)\.md\b', r"\1.html", output)
    parts = re.split(r"(<pre.*?</pre>)", output, flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?<=<code>)[^<]+", lambda code: breakable(code[0]), part) for part in parts[::2]]
    return "".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that mkdocs builds."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "gallery.md", content=gallery.page()))
    for path, page in COPIED.items():
        files.append(File.generated(config, page, content=copied(path)))
    return files
