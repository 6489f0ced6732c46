"""Refuse a file in one sentence, whatever is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reading(path: Path, done: str) -> Iterator[None]:
    """Turn any error inside the block into a ValueError that names the file and what cannot be done with it."""
    try:
        yield
    except Exception as error:  # torch, pickle, zipfile, safetensors and Pillow each raise several of their own
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be {done}: {reason}") from error
