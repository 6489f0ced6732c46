"""SIGUSR1 under torchrun: one of two workers has it, both save and end, and the same command continues."""

import os
import signal
import subprocess
import sys
import time

import pytest

ARGUMENTS = ("--model", "mlp", "--epochs", "40", "--precision", "float32", "--name", "cut", "--resume")


@pytest.mark.slow
def test_a_worker_that_has_sigusr1_ends_both_with_a_checkpoint(script, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    checkpoint = tmp_path / "runs" / "mlp" / "cut" / "checkpoint.pt"
    with open(tmp_path / "log", "w") as log:
        agent = subprocess.Popen(
            [*launcher, "-m", "cifarblocks", "train", *ARGUMENTS],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 120
            while not checkpoint.exists():
                assert agent.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with open(f"/proc/{agent.pid}/task/{agent.pid}/children") as children:
                workers = [int(number) for number in children.read().split()]
            os.kill(workers[-1], signal.SIGUSR1)
            assert agent.wait(timeout=60) != 0
        finally:
            agent.kill()
            agent.wait()
    said = (tmp_path / "log").read_text()
    assert "SIGUSR1 " in said
    assert "--name cut --resume continues from there" in said
    assert f"exitcode  : {128 + signal.SIGUSR1}" in said
    assert not (checkpoint.parent / "summary.json").exists()
    assert "resuming run" in script("train", *ARGUMENTS, processes=2).stdout
