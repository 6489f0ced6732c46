"""Run the scripts of docs/guides/slurm.md with stand-ins for `srun` and `scontrol`: signal, requeue, second start."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "slurm.md"
SRUN = """#!/bin/bash
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    echo $! >> tasks
done
trap 'kill -USR1 $(cat tasks)' USR1
status=0
for number in $(cat tasks); do
    wait $number
    wait $number || status=$?
done
exit $status
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> requeued; fi
"""
COMMAND = """#!/bin/bash
exec {python} -m cifarblocks "$@"
"""


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def scripts() -> dict[str, tuple[str, int]]:
    """Return each whole script, with the last lines of the first where it lacks them, and its number of tasks."""
    first, background, several, array = blocks()[:4]
    after = first[first.index('if [ "$status"') :]
    return {
        "first": (first, 1),
        "background": (background + after, 1),
        "several": (f"{several}status=$?\n{after}", 2),
        "array": (array, 1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "background", "several", "array"])
def test_a_script_saves_at_sigusr1_is_requeued_and_goes_on(which, tmp_path):
    script, tasks = scripts()[which]
    script = script.replace("--data cifar100 --model resnet_18", "--model mlp --epochs 30 --precision float32")
    script = script.replace("/shared/runs", "runs")
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "cifarblocks": COMMAND}.items():
        (tmp_path / name).write_text(text.format(python=sys.executable) if name == "cifarblocks" else text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "my_grid.toml").write_text('[options]\nepochs = 30\nprecision = "float32"\n\n[[runs]]\nmodel = "mlp"\n')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
                   "SLURM_JOB_ID": "77", "SLURM_NTASKS": str(tasks), "SLURM_JOB_NODELIST": "one",
                   "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}  # fmt: skip

    def start() -> subprocess.Popen:
        (tmp_path / "tasks").unlink(missing_ok=True)
        with (tmp_path / "log").open("a") as log:  # as --open-mode=append has it
            command = ["bash", "-c", script]
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)

    job, requeued = start(), "requeue 77_3\n" if which == "array" else "requeue 77\n"
    deadline = time.monotonic() + 120
    while not (checkpoints := list(tmp_path.glob("runs/**/checkpoint.pt"))):
        assert job.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Slurm signals the script with B:, and the processes of srun without it.
    signalled = [job.pid] if which == "background" else map(int, (tmp_path / "tasks").read_text().split())
    for number in signalled:
        os.kill(number, signal.SIGUSR1)
    assert job.wait(60) == 138, (tmp_path / "log").read_text()
    assert (tmp_path / "requeued").read_text() == requeued
    run = checkpoints[0].parent
    assert not (run / "summary.json").exists()
    assert start().wait(120) == 0
    log = run.with_name(f"{run.name}.log") if which == "array" else tmp_path / "log"
    assert f"resuming run {run.relative_to(tmp_path)} after epoch" in log.read_text()
    assert (run / "summary.json").exists()
    assert (tmp_path / "requeued").read_text() == requeued
