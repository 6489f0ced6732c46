"""Several sweeps of one grid: each run is trained once, whichever sweep dies, and all of them end with the table."""

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from many import events, kill_with_children, start, wait_until

from cifarblocks.cli.sweep import main
from cifarblocks.training.compare import equal_time, sweep
from cifarblocks.training.run_folder.locks import is_locked, locked, run_lock

OUTPUT = Path("runs/grid")


@pytest.fixture
def grid(stand_in, monkeypatch):
    """A grid of five runs, and a table of which one line is written by each sweep that ends."""
    Path("grid.toml").write_text("options = {epochs = 2}\nruns = [{model = 'mlp', seed = [0, 1, 2, 3, 4]}]")
    OUTPUT.mkdir(parents=True)

    def write_comparison(output, title, runs):
        with (output / "table.md").open("a") as file:
            file.write(f"{sum((run.folder / 'summary.json').exists() for run in runs)}\n")

    monkeypatch.setattr(sweep, "write_comparison", write_comparison)
    monkeypatch.setattr(sweep, "POLL", 0.1)


def test_three_sweeps_of_which_one_is_killed_train_each_run_once(grid):
    (OUTPUT / "hold").touch()
    sweeps = [start(lambda: main(["grid.toml"])) for _ in range(3)]
    wait_until(lambda: len(list(OUTPUT.glob("mlp/*/metrics.jsonl"))) == 3)
    assert len(set(events(OUTPUT, "begins"))) == 3
    kill_with_children(sweeps[1])
    (OUTPUT / "hold").unlink()
    for each in sweeps[::2]:
        each.join(120)
        assert each.exitcode == 0
    assert Counter(events(OUTPUT, "ends")) == {f"seed-{seed}": 1 for seed in range(5)}
    assert sorted(Counter(events(OUTPUT, "begins")).values()) == [1, 1, 1, 1, 2]
    for seed in range(5):
        lines = [json.loads(line) for line in (OUTPUT / f"mlp/seed-{seed}/metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
    assert (OUTPUT / "table.md").read_text() == "5\n" * 2


@pytest.mark.parametrize("wait", [True, False])
def test_a_run_that_another_process_trains_is_waited_for_or_left(grid, capsys, wait):
    """The lock is that of the run itself: its sweep may be dead, or it was started by hand."""
    lock, held, left = run_lock(OUTPUT / "mlp" / "seed-0"), threading.Event(), threading.Event()

    def train_elsewhere():
        with locked(lock):
            held.set()
            wait_until(lambda: len(events(OUTPUT, "ends")) == 4)
            if not wait:
                left.wait(120)

    elsewhere = threading.Thread(target=train_elsewhere)
    elsewhere.start()
    held.wait()
    assert main(["grid.toml", *(() if wait else ("--no-wait",))]) == 0
    assert is_locked(lock) is not wait
    left.set()
    elsewhere.join()
    ended = events(OUTPUT, "ends")
    assert ended == [f"seed-{seed}" for seed in (1, 2, 3, 4, *((0,) if wait else ()))]
    assert ("mlp/seed-0" in capsys.readouterr().out) is wait
    assert (OUTPUT / "table.md").read_text() == f"{len(ended)}\n"


def test_a_run_that_another_process_locked_first_is_no_failure(grid):
    """Another process may start the same run after the sweep has checked its lock and before the child takes it."""
    job = sweep.Job(
        sweep.Planned("mlp", [], OUTPUT / "mlp" / "one", None), Refused(OUTPUT / "mlp" / "one.log"), 0.0, None
    )
    waiting, failures = [], {}
    with locked(job.run.lock):
        sweep.describe_end(job, waiting, failures)
    assert (waiting, failures) == ([job.run], {})
    sweep.describe_end(job, waiting, failures)
    assert (waiting, list(failures)) == ([job.run], ["mlp/one"])


class Refused:
    """A process of `cifarblocks train` that could not work."""

    status = 2

    def __init__(self, log):
        self.log = log

    def last_words(self):
        return "no"


def test_the_speeds_for_equal_time_are_measured_once(grid, monkeypatch):
    Path("grid.toml").write_text("equal-time = {model = 'mlp', epochs = 2}\nruns = [{model = ['mlp', 'cnn']}]")

    def measure(folder, settings):
        with (folder / "measured").open("a") as file:
            file.write(f"{settings['model']}\n")
        time.sleep(0.3)
        return 100.0

    monkeypatch.setattr(equal_time, "measure_speed", measure)
    sweeps = [start(lambda: main(["grid.toml"])) for _ in range(3)]
    for each in sweeps:
        each.join(120)
        assert each.exitcode == 0
    assert sorted((OUTPUT / "measured").read_text().split()) == ["cnn", "mlp"]


def test_sigusr1_stops_the_runs_and_the_same_command_goes_on(grid):
    (OUTPUT / "hold").touch()

    def interrupt():
        wait_until(lambda: len(list(OUTPUT.glob("mlp/*/metrics.jsonl"))) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main(["grid.toml", "--jobs", "2"]) == 128 + signal.SIGUSR1
    assert sorted(events(OUTPUT, "stopped")) == ["seed-0", "seed-1"]
    (OUTPUT / "hold").unlink()
    assert main(["grid.toml"]) == 0
    assert len(events(OUTPUT, "ends")) == 5


@pytest.mark.slow
def test_three_sweeps_of_real_runs_of_which_one_is_killed(signals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("grid.toml").write_text("options = {epochs = 6}\nruns = [{model = 'mlp', seed = [0, 1, 2, 3]}]")
    sweeps = [start(lambda: main(["grid.toml"])) for _ in range(3)]
    wait_until(lambda: len(list(OUTPUT.glob("mlp/*/metrics.jsonl"))) == 3, 120)
    kill_with_children(sweeps[0])
    for each in sweeps[1:]:
        each.join(200)
        assert each.exitcode == 0
    logs = [(OUTPUT / f"mlp/seed-{seed}.log").read_text() for seed in range(4)]
    assert sorted(log.count("$ ") for log in logs) == [1, 1, 1, 2]
    assert all(log.count("epoch 6/6") == 1 for log in logs)
    assert "| mlp | " in (OUTPUT / "table.md").read_text()
    assert "Not complete" not in (OUTPUT / "table.md").read_text()
