"""The command `cifarblocks`: finds the command that is asked for, and imports nothing for the others."""

import os
import sys
from difflib import get_close_matches
from importlib import import_module

import cifarblocks

# Name → the package that it needs, and its line in the overview. `cifarblocks.cli.NAME` has its `main`.
COMMANDS = {
    "list": ("", "print the names of the models"),
    "show": ("", "print stages, maps, parameters, multiply-adds and paper of a model"),
    "train": ("cifarblocks[train]", "train a model, in one process or many"),
    "finetune": ("cifarblocks[train]", "go on from trained weights, with other classes or images"),
    "predict": ("pillow", "name what is on images, or score weights on a data set"),
    "sweep": ("cifarblocks[train]", "train a grid of models and settings, and compare them"),
    "search": ("cifarblocks[search]", "search for the best values of options, on validation images"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands and return its exit status; without one, print the overview.

    The status is 1, and nothing is said, if the reader of its output has gone, as after `| head`.
    """
    try:
        try:
            return run(sys.argv[1:] if arguments is None else arguments)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would flush into the pipe at its end
        return 1


def run(arguments: list[str]) -> int:
    """Run the command that is named first."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"cifarblocks {cifarblocks.__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COMMANDS)}"
        print(f"cifarblocks: error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    package, _ = COMMANDS[name]
    try:
        return import_module(f"cifarblocks.cli.{name}").main(rest)
    except ModuleNotFoundError as error:
        if not package or (error.name or "").startswith("cifarblocks"):
            raise
        print(f"cifarblocks {name} needs more packages: pip install '{package}'", file=sys.stderr)
        return 2


def overview() -> str:
    """Return the commands, one a line."""
    lines = [f"  {name:10}{line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: cifarblocks COMMAND ...", *lines, "cifarblocks COMMAND --help says more of each."])
