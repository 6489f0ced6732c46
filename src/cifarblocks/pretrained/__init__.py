"""Trained weights in the package: a folder each, `model.weights`, with the file, a card to read and a test vector."""

import os
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

FOLDER = Path(__file__).parent
FILE = "model.safetensors"


def list_weights(pattern: str = "*") -> list[str]:
    """Return the sorted names of the trained weights that match a shell wildcard.

    A name is that of the model and that of its weights, with a dot between them: see `load` and `create_model`.

    >>> list_weights("no_such_*")
    []
    """
    names = (path.parent.name for path in FOLDER.glob(f"*/{FILE}"))
    return sorted(name for name in names if fnmatchcase(name, pattern))


def find_weights(path_or_name: str | Path) -> Path:
    """Return the path of a weights file; a path that exists wins over a name of `list_weights`.

    Raises:
        TypeError: If it is neither a string nor a path.
        ValueError: If there is neither such a file nor such a name; the message suggests near names.
    """
    if not isinstance(path_or_name, str | Path):
        raise TypeError(f"path_or_name must be a string or a path, got {path_or_name!r}")
    path = Path(path_or_name)
    if os.path.exists(path):  # Path.exists raises an OSError for a name that is too long
        return path
    names = list_weights()
    if str(path_or_name) in names:
        return FOLDER / str(path_or_name) / FILE
    near = get_close_matches(str(path_or_name), names, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "list_weights() has the names"
    raise ValueError(f"{str(path_or_name)!r} is neither a file nor the name of trained weights; {hint}")
