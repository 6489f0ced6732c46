"""What `--data` names: the scanned digits, a data set that torchvision reads, or a folder of images."""

import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from cifarblocks.training.errors import UserError

NAMES = ("digits", "cifar10", "cifar100")
SOURCES = f"{', '.join(NAMES)} or the path of a folder"


def find_source(text: str) -> str:
    """Return the name of a data set, or folder:PATH for a folder that is there.

    A name wins over a folder that is called so.

    Args:
        text: What was given as `--data`.

    Raises:
        UserError: If it is neither; the message suggests near names.

    >>> find_source("digits"), find_source("folder:flowers")
    ('digits', 'folder:flowers')
    """
    kind, _, path = text.partition(":")
    if text in NAMES or (kind == "folder" and path):
        return text
    if os.path.isdir(text):
        return f"folder:{Path(text)}"
    raise UserError(f"--data must be {SOURCES}, got {text!r}{near_names(text, NAMES)}")


def near_names(text: str, names: tuple[str, ...] = ()) -> str:
    """Return a suggestion of near names, and of near folders beside the path; empty if there are none."""
    beside: list[str] = []
    parent = Path(text).parent
    with suppress(OSError, ValueError):
        beside = [str(parent / entry.name) for entry in os.scandir(parent) if entry.is_dir()]
    near = get_close_matches(text, [*names, *beside], n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
