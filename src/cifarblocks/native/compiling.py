"""The C++ kernels as a shared library: compiled on first use and kept in a cache that nobody else can write to."""

import contextlib
import hashlib
import os
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
from ctypes import CDLL
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
SECONDS = 300  # that a compiler may take; the kernels take it 6, and many times that where others compute
DAY = 24 * 3600  # until a compiler that failed is tried again


@cache
def library() -> CDLL | None:
    """Return the compiled kernels, or None to use torch's own operations.

    CIFARBLOCKS_NATIVE=0 in the environment turns them off. There are none on Windows, where file owners cannot be
    checked.
    """
    if os.environ.get("CIFARBLOCKS_NATIVE") == "0" or os.name == "nt":
        return None
    try:
        return CDLL(str(compiled()))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):
        return None


def compiled(sources_in: Path = SOURCES, seconds: float = SECONDS) -> Path:
    """Return the shared library for these sources, this compiler and this processor; compile it if there is none.

    Args:
        sources_in: Folder of the C++ files.
        seconds: Seconds that the compiler may take.

    Raises:
        OSError: If there is no compiler, or no private folder for the cache.
        RuntimeError: If the compiler failed within the last day.
        ValueError: If CXX is not a command.
        subprocess.SubprocessError: If the compiler fails or takes too long.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    sources = sorted(sources_in.glob("*.cpp"))
    texts = b"".join(path.read_bytes() for path in sorted(sources_in.glob("*.h")) + sources)
    folder = private_folder()
    failed = folder / f"failed-{short_hash(texts, ' '.join((*compiler, *FLAGS)).encode())}"
    if failed.exists() and time.time() - failed.stat().st_mtime < DAY:
        raise RuntimeError(f"the compiler failed before; remove {failed} to try it again")
    try:
        # The macros that a compiler defines tell its version and what the processor can do.
        macros = run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], seconds)
        key = short_hash(texts, macros, " ".join((*compiler, *FLAGS)).encode())
        for path in sorted(folder.glob(f"loops-{key}-*.so")):
            if is_private(path) and path.stem.endswith(f"-{short_hash(path.read_bytes())}"):
                return path
            path.unlink(missing_ok=True)  # cut off or changed: to load it could end the process
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one of the processes that torchrun starts
            print("cifarblocks: compiling kernels for this processor, once: some seconds", file=sys.stderr)
        return compile_into(folder, key, [*compiler, *FLAGS, *map(str, sources)], seconds)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        failed.touch(mode=0o600)
        said = f"it took over {seconds} s"
        if isinstance(error, subprocess.CalledProcessError):
            said = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        if said:
            print(f"cifarblocks: {compiler[0]} failed, torch's own loops are used: {said}", file=sys.stderr)
        raise


def compile_into(folder: Path, key: str, command: list[str], seconds: float) -> Path:
    """Compile with OpenMP, or without it where the compiler has none; the name of the file holds its hash."""
    with tempfile.TemporaryDirectory(dir=folder) as own:  # another process may be compiling the same
        made = Path(own) / "loops.so"
        try:
            run([*command, "-fopenmp", "-o", str(made)], seconds)
        except subprocess.CalledProcessError:
            run([*command, "-o", str(made)], seconds)
        made.chmod(0o600)
        with made.open("rb") as file:
            os.fsync(file.fileno())
            target = folder / f"loops-{key}-{short_hash(file.read())}.so"
        return made.replace(target)


def run(command: list[str], seconds: float) -> bytes:
    """Run a compiler and return what it prints; kill it and its child processes after `seconds`.

    Raises:
        subprocess.SubprocessError: If it fails or takes too long.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output, errors)
    return output


def private_folder() -> Path:
    """Return the folder of the cache, which nobody else can write to; create it if necessary.

    It is `cifarblocks` in XDG_CACHE_HOME or ~/.cache, or else a folder of the user's own in the temporary folder.

    Raises:
        OSError: If neither can be had.
    """
    temporary = Path(tempfile.gettempdir()) / f"cifarblocks-{os.geteuid()}"
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache_home.is_absolute():  # as the XDG specification asks
        cache_home = Path(os.path.expanduser("~/.cache"))
    for folder in (cache_home / "cifarblocks", temporary):
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if is_private(folder) and all(map(keeps_names, folder.resolve().parents)):
                return folder.resolve()
        except OSError:
            continue
    raise OSError(f"{temporary} cannot be used: another user owns it or can write to it")


def is_private(path: Path) -> bool:
    """Return True if a file or folder is the user's own and nobody else can write to it; a link never is."""
    status = path.lstat()
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def keeps_names(folder: Path) -> bool:
    """Return True if nobody but the user and root can replace a folder inside this folder."""
    status = folder.stat()
    return status.st_uid in (0, os.geteuid()) and (not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))


def short_hash(*contents: bytes) -> str:
    """Return 128 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:32]
