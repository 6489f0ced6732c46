"""Check how docstrings open: `python docs/docstrings.py`, for `make lint`; a second.

A docstring opens with a verb ("Return", "Draw") or with a noun phrase ("Depthwise convolution"). One that opens with
"What", "Whether" or another of these words makes its reader wait for the subject.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "examples", "benchmarks", "docs", "tests")
REFUSED = {"What", "Whether", "Of", "As", "That", "How", "Who", "Which", "When", "Where"}
OWNERS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def refused(path: Path) -> list[str]:
    """Return the place and the first line of every docstring of a file that opens with such a word."""
    owners = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, OWNERS)]
    found = [(getattr(owner, "lineno", 1), (ast.get_docstring(owner) or "").partition("\n")[0]) for owner in owners]
    return [f"{path.relative_to(ROOT)}:{line}: {text}" for line, text in found if text.partition(" ")[0] in REFUSED]


def main() -> int:
    """Print them."""
    found = [line for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) for line in refused(path)]
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("open a docstring with a verb or a noun phrase (CONTRIBUTING.md, How we write)", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
