"""Cache of computed tensors: a file is read unchanged, or computed again."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cifarblocks.checkpoints.files import reading
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.output import one_line


def write_cache(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors and their hash, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Allocated here for torch's error: safetensors copies the tensors twice and panics or aborts without memory.
    torch.empty(2 * sum(tensor.nbytes for tensor in tensors.values()), dtype=torch.uint8)
    write_atomically(path, save(tensors, metadata={"sha256": hash_tensors(tensors)}))


def read_cache(path: Path, names: Sequence[str], remedy: str) -> dict[str, Tensor] | None:
    """Return the tensors of a file, or None if there is none or it is damaged, which is printed.

    Args:
        path: the file.
        names: names of its tensors, in the order of writing.
        remedy: work that is repeated if the file cannot be used: decoding, computing.
    """
    if not path.exists():
        return None
    try:
        with reading(path, f"used, {remedy} again"), safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
            if hash_tensors(tensors) != (file.metadata() or {}).get("sha256"):
                raise ValueError("its content has changed since it was written")
            return tensors
    except ValueError as error:
        print(one_line(f"cache {error}"), file=sys.stderr)
    return None


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return a hash of names, shapes and numbers, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
