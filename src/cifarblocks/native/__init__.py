"""Loops for CPUs that torch has no fast form of, in C++.

They are compiled on first use, which takes some seconds and says one line, and kept in the user's cache. Where there
is no C++ compiler, or CIFARBLOCKS_NATIVE=0 is set, `library` gives None and torch's own operations are used.
"""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from ctypes import CDLL
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


@cache
def library() -> CDLL | None:
    """The compiled loops, or None where they cannot be had."""
    if os.environ.get("CIFARBLOCKS_NATIVE") == "0":
        return None
    try:
        path = compiled()
        try:
            return CDLL(str(path))
        except OSError:  # empty, after the machine lost its power
            path.unlink()
            return CDLL(str(compiled()))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):
        return None


def compiled() -> Path:
    """The shared library of these sources, compiler and processor; compiled if no process has done so before.

    Raises:
        OSError: if there is no compiler, or the cache cannot be written.
        RuntimeError: if there is no home for the cache.
        ValueError: if CXX is no command.
        subprocess.SubprocessError: if the compiler fails, which is said.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    sources = sorted(FOLDER.glob("*.cpp"))
    # What the compiler defines tells its version and what the processor can do.
    macros = subprocess.run(
        [*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True
    ).stdout
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.h")) + sources)
    key = hashlib.sha256(texts + macros + " ".join((*compiler, *FLAGS)).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifarblocks"
    target = folder / f"loops-{key[:16]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("cifarblocks: compiling loops for this processor, once", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder) as own:  # another process may be compiling the same
            made = Path(own) / target.name
            command = [*compiler, *FLAGS, *map(str, sources), "-o", str(made)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                said = (error.stderr.strip() or f"status {error.returncode}").splitlines()[0]
                print(f"cifarblocks: {compiler[0]} failed, torch's own loops are used: {said}", file=sys.stderr)
                raise
            made.replace(target)
    return target


def may_serve(*tensors: Tensor) -> bool:
    """Whether nothing but plain tensors in main memory takes part, and nobody records or transforms what is done."""
    return (
        torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and all(not dispatch_keys(tensor) & ~PLAIN for tensor in tensors)
    )


def dispatch_keys(tensor: Tensor) -> int:
    """What torch tells kinds of tensors by: device, subclass, fake, batched, negated, ..., a bit for each."""
    return torch._C._dispatch_keys(tensor).raw_repr()


PLAIN = dispatch_keys(torch.empty(0, device="cpu"))
