"""`cifarblocks list [PATTERN]`: the names of models, all or those that match a shell wildcard."""

import argparse
import sys

from cifarblocks.registry import list_models


def main(arguments: list[str] | None = None) -> int:
    """Print the names, one a line; the exit status is 0, or 2 for a pattern that none matches."""
    parser = argparse.ArgumentParser("cifarblocks list", description="Print the names of models, one a line.")
    parser.add_argument("pattern", nargs="?", default="*", help='for example "eca_*" (default: all)')
    pattern = parser.parse_args(arguments).pattern
    names = list_models(pattern)
    if not names:
        print(f"{parser.prog}: error: no model is called {pattern!r}", file=sys.stderr)
        return 2
    print("\n".join(names))
    return 0
