"""Loops for CPUs that torch has no fast form of, in C++.

They are compiled on first use, which takes a second and says one line, and kept in the user's cache. Where there is no
C++ compiler, or CIFARBLOCKS_NATIVE=0 is set, `library` gives None and torch's own operations are used.
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

SOURCE = Path(__file__).with_name("depthwise.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


@cache
def library() -> CDLL | None:
    """The compiled loops, or None where they cannot be had."""
    if os.environ.get("CIFARBLOCKS_NATIVE") == "0":
        return None
    try:
        return CDLL(str(compiled()))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


def compiled() -> Path:
    """The shared library of this source, compiler and processor; it is compiled if no process has done so before.

    Raises:
        OSError: if there is no compiler, or the cache cannot be written.
        RuntimeError: if there is no home for the cache.
        subprocess.SubprocessError: if the compiler fails.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    # What the compiler defines tells its version and what the processor can do.
    macros = subprocess.run(
        [*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True
    ).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + macros + " ".join((*compiler, *FLAGS)).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifarblocks"
    target = folder / f"{SOURCE.stem}-{key[:16]}.so"
    if not target.exists():
        print("cifarblocks: compiling the gradient of depthwise convolutions, once", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:  # another process may be compiling the same
            made = Path(own) / target.name
            subprocess.run([*compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True)
            made.replace(target)
    return target
