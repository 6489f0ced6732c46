"""Processes that train together, as torchrun starts them, without its seconds: they are forked from one that has torch.

A real torchrun starts them in tests/cli/test_train.py, and restarts them in tests/training/test_restarts.py.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cifarblocks.training.loop", "cifarblocks.training.stopping"])


class Finished(NamedTuple):
    """Output of processes."""

    stdout: str
    stderr: str


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_together(command: list[str], folder: Path, processes: int) -> list[BaseProcess]:
    """Start a command of cifarblocks, or a script, in processes of one group."""
    port, environment = str(free_port()), dict(os.environ)
    group = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        environment |= {name: str(number) for name, number in place.items()}
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        group.append(SERVER.Process(target=_run, args=(command, folder, dict(environment))))
    for process in group:
        process.start()
    return group


def printed(folder: Path, processes: int) -> Finished:
    """Return what all processes of a group printed."""
    return Finished(
        *("".join((folder / f"{name}_{rank}").read_text() for rank in range(processes)) for name in ("out", "err"))
    )


def run_together(command: list[str], folder: Path, processes: int, status: int = 0) -> Finished:
    """Run a command of cifarblocks, or a script, in processes of one group; each must end with this exit status."""
    group = start_together(command, folder, processes)
    for process in group:
        process.join(timeout=120)
        process.kill()
        process.join()
    finished = printed(folder, processes)
    assert [process.exitcode for process in group] == [status] * processes, finished
    return finished


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}_{environment['RANK']}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    torch.set_num_threads(1)
    name, *arguments = command
    if name.endswith(".py"):
        sys.argv = command
        runpy.run_path(name, run_name="__main__")
    else:
        sys.argv = ["cifarblocks", name, *arguments]
        runpy.run_module("cifarblocks", run_name="__main__")
