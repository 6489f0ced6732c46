"""TOML, from the standard library where that has it."""

import sys
from pathlib import Path
from typing import Any

from cifarblocks.checkpoints.files import reading
from cifarblocks.training.errors import UserError

if sys.version_info >= (3, 11):
    from tomllib import loads
else:
    from tomli import loads


def toml_value(text: str) -> Any:
    """Return one value, as it stands behind `key =`.

    >>> toml_value("[0, 1e-4]"), toml_value("true")
    ([0, 0.0001], True)
    """
    return loads(f"value = {text}")["value"]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: if it cannot be read, or is not TOML.
    """
    try:
        with reading(path, "read as TOML"):
            return loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(str(error)) from error
