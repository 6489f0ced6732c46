"""A command line: a parser and readers of values that say what is wrong in one sentence."""

import argparse
import ast
import math
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Parser that says what is wrong in one sentence, once for all processes, and exits with status 2.

    Args:
        program: The command.
        description: The first paragraphs of the help.
        about: What stands before each sentence.
        usage: What follows the command in the first line of the help; by default every option.
    """

    def __init__(self, program: str, description: str | None = None, about: str = "", usage: str | None = None) -> None:
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(
            program, usage and f"%(prog)s {usage}", description, formatter_class=formatter, allow_abbrev=False
        )
        self.about = about

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        unknown, _, rest = message.partition("unrecognized arguments: ")
        if not unknown and (near := get_close_matches(rest.split(" ")[0], self._option_string_actions, n=1)):
            message += f"; did you mean {near[0]}?"
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"{self.prog}: error: {self.about}{message}", file=sys.stderr)
        sys.exit(2)


def named_value(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is a Python literal if it reads as one, else a string.

    >>> named_value("kernel_size=5"), named_value("shortcut=A")
    (('kernel_size', 5), ('shortcut', 'A'))
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def folder_name(text: str) -> str:
    """Read the name of one folder, which cannot lead to another place.

    >>> folder_name("first")
    'first'
    """
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


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return a reader of finite numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"must be a number {limits}, got {text!r}")
        return value

    return read
