"""torchrun on two machines, each of which is an agent here on loopback, and workers that are killed again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import assert_same, weights
from together import free_port

TRAIN = ("-m", "cifarblocks", "train")
ARGUMENTS = ("--model", "mlp", "--epochs", "8", "--precision", "float32", "--checkpoint-steps", "3", "--resume",
             "--ema", "0.9", "--policy", "trivial", "--mixup", "0.2")  # fmt: skip
# Without it the workers of all attempts share one store of addresses, and find those of workers that are dead.
STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def agent(folder: Path, port: int, number: int) -> subprocess.Popen:
    """One machine of two, with two workers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=2", "--max-restarts=20",
               "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test", *TRAIN, *ARGUMENTS,
               "--name", "cut"]  # fmt: skip
    with open(folder / f"agent{number}.log", "w") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **STORE, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def workers(of: subprocess.Popen) -> list[int]:
    """The processes that an agent has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == of.pid:
            found.append(int(status.parent.name))
    return sorted(found)


def written(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


@pytest.mark.slow
def test_two_agents_whose_workers_are_killed_end_with_the_weights_of_a_run_that_nobody_touched(script, tmp_path):
    script("train", *ARGUMENTS, "--name", "whole", processes=4)
    port, draw, runs = free_port(), random.Random(0), tmp_path / "runs" / "mlp"
    agents = [agent(tmp_path, port, number) for number in range(2)]
    kills = 0
    try:
        deadline = time.monotonic() + 900
        for role in (0, 1, 0, 1):
            before = written(runs / "cut" / "checkpoint.pt")
            while written(runs / "cut" / "checkpoint.pt") == before and agents[role].poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 0.5))
            alive = workers(agents[role])
            if agents[role].poll() is None and alive:
                os.kill(draw.choice(alive), signal.SIGKILL)
                kills += 1
        for each in agents:
            assert each.wait(timeout=600) == 0, (tmp_path / "agent0.log").read_text()[-3000:]
    finally:
        for each in agents:
            if each.poll() is None:
                each.terminate()
                each.wait(timeout=60)
    assert kills >= 3
    assert_same(weights(runs / "whole"), weights(runs / "cut"))
    assert "resuming run" in "".join((tmp_path / f"agent{number}.log").read_text() for number in range(2))
