"""The command `cifarblocks`: finds the named command, and imports nothing for the others."""

import sys
from difflib import get_close_matches
from importlib import import_module

import cifarblocks
from cifarblocks.training.errors import is_out_of_memory, out_of_memory
from cifarblocks.training.output import open_streams, tell, tell_unwritten

# Name → the package that it needs, and its line in the overview. `cifarblocks.cli.NAME` has its `main`.
COMMANDS = {
    "list": ("", "print the names of models, or of trained weights"),
    "show": ("", "print stages, maps, parameters, multiply-adds and paper of a model"),
    "train": ("cifarblocks[train]", "train a model, in one process or many"),
    "finetune": ("cifarblocks[train]", "train from trained weights, for other classes or images"),
    "predict": ("pillow", "predict the classes of images, or score weights on a data set"),
    "export": ("cifarblocks[export]", "write weights as ONNX or torch.export, checked against torch"),
    "sweep": ("cifarblocks[train]", "train a grid of models and settings, and compare them"),
    "search": ("cifarblocks[search]", "search for the best values of options, on validation images"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; without arguments, print the overview.

    The status is 1 if the output cannot be written, or the memory does not suffice.
    """
    open_streams()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    program = f"cifarblocks {name}" if name in COMMANDS else "cifarblocks"
    try:
        try:
            return run(name, rest)
        finally:
            sys.stdout.flush()
    except OSError as error:
        tell_unwritten(program, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tell(program, out_of_memory(rest, training=name in ("train", "finetune")), once=False)
    return 1


def run(name: str, arguments: list[str]) -> int:
    """Run a command, or answer --help or --version."""
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"cifarblocks {cifarblocks.__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COMMANDS)}"
        tell("cifarblocks", f"unknown command {name!r}; {hint}")
        return 2
    package, _ = COMMANDS[name]
    try:
        return import_module(f"cifarblocks.cli.{name}").main(arguments)
    except ModuleNotFoundError as error:
        if not package or (error.name or "").startswith("cifarblocks"):
            raise
        tell(f"cifarblocks {name}", f"needs more packages: pip install '{package}'")
        return 2


def overview() -> str:
    """Return the commands, one a line."""
    lines = [f"  {name:10}{line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: cifarblocks COMMAND ...", *lines, "Run cifarblocks COMMAND --help for its options."])
