"""A command line: a parser and readers of values, with one-sentence errors."""

import argparse
import ast
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from cifarblocks.training.output import tell

# Words of timm's training script and of others → ours, where they are not alike
OURS = {
    "--aa": "--policy",
    "--amp": "--precision",
    "-b": "--batch-size",
    "--learning-rate": "--lr",
    "--model-ema": "--ema",
    "--model-kwargs": "--model-argument",
    "--reprob": "--erasing",
}
WEIGHTS = "a file or run folder of `cifarblocks train`, or a name that `cifarblocks list --weights` prints"
MOST = 1e6  # bound of numbers without another, so that results in float32 stay finite


class Parser(argparse.ArgumentParser):
    """Parser that prints a one-sentence error, once for all processes, and exits with status 2.

    Args:
        program: The command.
        description: The first paragraphs of the help.
        about: Text in front of each error.
        usage: Text after the command in the first line of the help; by default every option.
    """

    def __init__(self, program: str, description: str | None = None, about: str = "", usage: str | None = None) -> None:
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(
            program, usage and f"%(prog)s {usage}", description, formatter_class=formatter, allow_abbrev=False
        )
        self.about = about
        self.typed: list[str] = []

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Read a command line; refuse an empty value, such as an unset variable of a shell."""
        self.typed = arguments = sys.argv[1:] if args is None else list(args)
        option = ""
        for argument in arguments:
            value = argument
            if argument.startswith("--"):
                option, equals, value = argument.partition("=")
                if not equals:
                    continue
            wrong = {"": "be empty", "--": "be '--'"}.get(value, "have a null character" if "\0" in value else "")
            if wrong:
                where = f"argument {option}:" if option else "an argument"
                self.error(f"{where} must not {wrong}, got {value!r}")
        return super().parse_known_args(arguments, namespace)

    def by_name(self, option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Return the NAME=VALUE of a repeatable option by their names, none of which may be given twice."""
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self.error(f"argument {option}: {next(name for name in names if names.count(name) > 1)} is given twice")
        return found

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help; argparse would ignore an output that cannot be written."""
        print(message, end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Print the error with a suggestion, and exit."""
        _, unrecognized, rest = message.partition("unrecognized arguments: ")
        _, missing, required = message.partition("are required: ")
        hint = self._meant(rest.split(" ")[0]) if unrecognized else ""
        hint += self._explained(required.split(", ")) if missing else ""
        tell(self.prog, f"{self.about}{message}{hint}")
        sys.exit(2)

    def _meant(self, typed: str) -> str:
        """Return a suggestion for an unknown argument; empty if none is near."""
        known = self._option_string_actions
        near = nearest(typed, known) if typed.startswith("-") else None
        if "--data" in known and os.path.isdir(typed):
            near = f"--data {typed}"
        return f"; did you mean {near}?" if near else ""

    def _explained(self, missing: Sequence[str]) -> str:
        """Return suggestions of misspelt options for missing ones or, without any, the help of the missing ones."""
        unknown = [typed for typed in self.typed if typed.startswith("--") and typed not in self._option_string_actions]
        misspelt = [(near, typed) for typed in unknown if (near := nearest(typed, missing))]
        if misspelt:
            return "".join(f"; did you mean {near} by {typed}?" for near, typed in misspelt)
        return "".join(
            f"; {name}: {action.help}"
            for action in self._actions
            if (name := next(iter(action.option_strings), action.metavar or action.dest)) in missing and action.help
        )


def nearest(typed: str, options: Iterable[str]) -> str | None:
    """Return the option nearest to an argument: the one of timm's name, one with the same beginning or a similar one.

    >>> nearest("--lr-rate", ["--accelerate", "--lr"]), nearest("--optimiser", ["--optimizer"])
    ('--lr', '--optimizer')
    >>> nearest("--reprob", ["--recipe", "--erasing"]), nearest("--amp", ["--name"])
    ('--erasing', None)
    """
    known = {option[2:]: option for option in options if option.startswith("--")}
    if OURS.get(typed) in known.values():
        return OURS[typed]
    word = typed.lstrip("-")
    alike = [option for option in known if word.startswith(option) or option.startswith(word)]
    return next((known[option] for option in alike or get_close_matches(word, known, 1, 0.75)), None)


def named_value(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value that is not a Python literal is a string.

    >>> named_value("kernel_size=5"), named_value("shortcut=A")
    (('kernel_size', 5), ('shortcut', 'A'))
    """
    name, _, value = text.partition("=")
    if not (name.isidentifier() and value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no literal, or nested too deep
        return name, value


def new_path(text: str) -> Path:
    r"""Read a path to write to, which must be text: libraries accept no other bytes in the names of files.

    >>> new_path("caf\udcff")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: must be utf-8, the encoding of the locale, got 'caf\udcff'
    """
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):  # Python's stand-ins for bytes that it cannot decode
        raise argparse.ArgumentTypeError(
            f"must be {sys.getfilesystemencoding()}, the encoding of the locale, got {text!r}"
        )
    return Path(text)


def folder_name(text: str) -> str:
    """Read the name of one folder, without separators or "..".

    >>> folder_name("first")
    'first'
    """
    new_path(text)
    if text in ("", "..") or Path(text).name != text or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be the name of one folder, got {text!r}")
    return text


def integer(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Return a reader of whole numbers in a range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limits = f"of at least {least}" if value < least else f"of at most {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, got {text!r}")
        return value

    return read


def number(least: float, most: float = MOST) -> Callable[[str], float]:
    """Return a reader of numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # nan neither
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}, got {text!r}")
        return value

    return read
