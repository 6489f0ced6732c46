"""Trained weights in the package: a folder each, `model.weights`, with the file, a card to read and a test vector."""

import os
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

WHICH = ("last", "average", "best")
FOLDER = Path(__file__).parent
FILE = "model.safetensors"
DEFAULT = "cifar10_jpeg"  # weights="default", where a model has them
TEST_VECTOR = "test_vector.safetensors"  # an image and its logits


def list_weights(pattern: str = "*") -> list[str]:
    """Return the sorted names of the trained weights that match a shell wildcard.

    A name is MODEL.WEIGHTS, for `load` and `create_model`.

    Raises:
        TypeError: If the pattern is not a string.

    >>> list_weights("eca_resnet_20.d*")
    ['eca_resnet_20.digits']
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a string, got {pattern!r}")
    names = (path.parent.name for path in FOLDER.glob(f"*/{FILE}"))
    return sorted(name for name in names if fnmatchcase(name, pattern))


def default_weights(names: list[str]) -> str:
    """Return the name of the default weights among the names of a model.

    >>> default_weights(["cnn.a", "cnn.cifar10_jpeg"]), default_weights(["cnn.b", "cnn.c"])
    ('cnn.cifar10_jpeg', 'cnn.b')
    """
    return next((name for name in names if name.partition(".")[2] == DEFAULT), names[0])


def package_file(name: str) -> Path:
    """Return the path of the weights of that name in the package."""
    return FOLDER / name / FILE


def find_weights(path_or_name: str | Path, which: str = "last") -> Path:
    """Return the path of a weights file; a path that exists wins over a name of `list_weights`.

    Args:
        path_or_name: A file, a run folder or a name.
        which: Weights of a run folder: "last", "average" or "best".

    Raises:
        TypeError: If it is neither a string nor a path.
        ValueError: If there is neither such a file nor such a name; the message suggests near names. If the folder has
            no such weights.
    """
    if not isinstance(path_or_name, str | Path):
        raise TypeError(f"path_or_name must be a string or a path, got {path_or_name!r}")
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}, got {which!r}")
    # Path.expanduser raises a RuntimeError for the home folder of an unknown user.
    path, names = Path(os.path.expanduser(path_or_name)), list_weights()
    if os.path.isdir(path):  # Path.is_dir raises an OSError for a name that is too long
        return file_in(path, which)
    if which != "last":
        raise ValueError(f"which={which!r} needs a run folder, got {path}")
    if os.path.lexists(path):
        return path
    if str(path_or_name) in names:
        return package_file(str(path_or_name))
    near = get_close_matches(str(path_or_name), names, n=3) or list_weights(f"*{path_or_name}*")
    names_are = "list_weights() or `cifarblocks list --weights` has the names"
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else names_are
    raise ValueError(f"{str(path_or_name)!r} is neither a file, a run folder nor the name of trained weights; {hint}")


def file_in(folder: Path, which: str) -> Path:
    """Return the weights file in a run folder, or in a folder of weights such as those of the package.

    Raises:
        ValueError: If there is none; the message lists the files.
    """
    path = folder / f"{which}.safetensors"
    if which == "last" and not path.exists() and (folder / FILE).exists():
        return folder / FILE
    if not path.exists():
        found = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))) or "no weights"
        runs = sorted({file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{path.name}")})
        hint = f"; did you mean {' or '.join(map(str, runs[-3:]))}?" if runs else ""
        raise ValueError(f"{folder} has no {path.name}; it has {found}{hint}")
    return path
