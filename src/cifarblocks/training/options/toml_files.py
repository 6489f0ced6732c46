"""TOML, read by the standard library if it can."""

import sys
from pathlib import Path
from typing import Any

from cifarblocks.checkpoints.files import reading
from cifarblocks.training.errors import refusing

if sys.version_info >= (3, 11):
    from tomllib import loads
else:
    from tomli import loads


def toml_value(text: str) -> Any:
    """Return one value, the text after `key =`.

    Raises:
        ValueError: If it is not TOML.

    >>> toml_value("[0, 1e-4]"), toml_value("true")
    ([0, 0.0001], True)
    """
    try:
        return loads(f"value = {text}")["value"]
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: If it cannot be read, or is not TOML.
    """
    with refusing(), reading(path, "read as TOML"):
        return loads(path.read_text(encoding="utf-8"))
