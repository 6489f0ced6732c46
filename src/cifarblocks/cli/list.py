"""`cifarblocks list [PATTERN]`: the names of models or, with --weights, of the trained weights in the package."""

from cifarblocks.checkpoints.own import read_weights
from cifarblocks.pretrained import list_weights, package_file
from cifarblocks.registry import matching_models
from cifarblocks.training.options.command_line import Parser


def main(arguments: list[str] | None = None) -> int:
    """Print the names, one per line; the exit status is 0, or 2 if no name matches."""
    parser = Parser("cifarblocks list", "Print the names of models or, with --weights, of trained weights.")
    parser.add_argument("pattern", nargs="?", default="*", help='for example "eca_*" (default: all)')
    parser.add_argument("--weights", action="store_true", help="print trained weights, their data, accuracy and size")
    options = parser.parse_args(arguments)
    pattern, matching = options.pattern, list_weights if options.weights else matching_models
    names = matching(pattern)
    if not names:
        wider = len(matching(f"*{pattern}*"))
        hint = f'; "*{pattern}*" matches {wider}' if wider else ""
        parser.error(f"no {'weights are' if options.weights else 'model is'} called {pattern!r}{hint}")
    print(table_of_weights(names) if options.weights else "\n".join(names))
    return 0


def table_of_weights(names: list[str]) -> str:
    """Return name, data, accuracy on the test images and file size of trained weights, one line for each."""
    rows = [("weights", "data", "top-1", "size")]
    for name in names:
        path = package_file(name)
        _, card = read_weights(path)
        top1 = "" if card.accuracy is None else f"{card.accuracy['top1']:.2f} %"
        rows.append((name, card.data, top1, f"{path.stat().st_size / 1e6:.2f} MB"))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:{first}}  {data:{second}}  {top1:>8}  {size:>8}" for name, data, top1, size in rows)
