"""TOML, from the standard library where that has it."""

import sys
from pathlib import Path
from typing import Any

from cifarblocks.training.errors import UserError, first_line

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
        return loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {first_line(error)}") from error
