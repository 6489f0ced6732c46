"""Files that are written whole or not at all."""

import io
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomically(path: Path, data: bytes | memoryview, previous: Path | None = None) -> None:
    """Write to a temporary file, flush it to the disk, and rename it: a reader of `path` sees the old or the new file.

    Args:
        path: the file.
        data: its content.
        previous: path in the same folder that keeps the old file; after a kill between the two renames only it exists.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # `remove_leftovers` deletes it later
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "nt":
        return  # Windows opens no folders
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture as a PNG file, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for temporary in folder.iterdir():
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", temporary.name):
            temporary.unlink(missing_ok=True)
