import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
import torch
from commands import status_of, write_shades
from hypothesis import settings
from refusals import assert_names
from together import Finished, run_together

ROOT = Path(__file__).parents[1]

os.environ["CIFARBLOCKS_NATIVE"] = "0"  # test_depthwise.py, test_batch_norm.py and tests/native turn it on
torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other

settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=300, help="of each kind in tests/storm (default: 300)")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch):
    """Hide GPUs: results are equal to the bit, and two processes work, on CPUs; test_gpu.py has its GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for scripts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def signals():
    """Handle SIGINT and SIGHUP even if & or nohup ignores them; restore the handlers at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    kept = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(capsys):
    """Expect exit status 2 and one line: refused(main, arguments, "--lr", -1) names what the line must name."""

    def run(main, arguments, *named, status=2):
        capsys.readouterr()
        assert status_of(main, arguments) == status
        message = capsys.readouterr().err
        assert_names(message, *named)
        return message

    return run


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in an empty folder: command("train", "--epochs", 1) → what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments, status=0):
        capsys.readouterr()
        ended = status_of(import_module(f"cifarblocks.cli.{name}").main, arguments)
        printed = capsys.readouterr()
        assert ended == status, printed.out + printed.err
        return Finished(printed.out, printed.err)

    return run


@pytest.fixture
def together(tmp_path):
    """Run a command or an example in two processes that train together, in an empty folder: what both printed."""

    def run(name, *arguments, status=0, processes=2):
        return run_together([_path(name), *map(str, arguments)], tmp_path, processes, status)

    return run


def _path(name):
    return str(ROOT / "examples" / name) if name.endswith(".py") else name


@pytest.fixture
def script(tmp_path):
    """Start a command or an example, in an empty folder: script("train", "--epochs", 1) → the process, ended."""

    def run(name, *arguments, processes=1, status=0):
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        script = [_path(name)] if name.endswith(".py") else ["-m", "cifarblocks", name]
        finished = subprocess.run(
            [*launcher, *script, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == status, finished.stdout + finished.stderr
        return finished

    return run


@pytest.fixture
def image_folder(tmp_path):
    """A folder of two classes of 8×6 images, dark and light: 24 to train on, 8 to test with."""
    return write_shades(tmp_path / "shades")


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Return a folder, a pipe, a socket and a device by their names; a reader of the pipe gets its end at once."""
    kinds = {kind: tmp_path / str(number) for number, kind in enumerate(("folder", "pipe", "socket", "device"))}
    monkeypatch.chdir(tmp_path)
    kinds["folder"].mkdir()
    os.mkfifo(kinds["pipe"])
    kinds["device"].symlink_to(os.devnull)
    ended = threading.Event()

    def write_nothing():
        with contextlib.suppress(OSError):  # of a process that may no longer open it
            while not ended.is_set():
                os.close(os.open(kinds["pipe"], os.O_WRONLY))  # waits until it is opened to be read

    threading.Thread(target=write_nothing, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(kinds["socket"].name)  # the path itself may be longer than a socket's may be
        yield kinds
    ended.set()
    os.close(os.open(kinds["pipe"], os.O_RDONLY | os.O_NONBLOCK))
