"""`cifarblocks list [PATTERN]`: the names of models, all or those that match a shell wildcard."""

from cifarblocks.registry import list_models
from cifarblocks.training.options.command_line import Parser


def main(arguments: list[str] | None = None) -> int:
    """Print the names, one a line; the exit status is 0, or 2 for a pattern that none matches."""
    parser = Parser("cifarblocks list", "Print the names of models, one a line.")
    parser.add_argument("pattern", nargs="?", default="*", help='for example "eca_*" (default: all)')
    pattern = parser.parse_args(arguments).pattern
    names = list_models(pattern)
    if not names:
        parser.error(f"no model is called {pattern!r}")
    print("\n".join(names))
    return 0
