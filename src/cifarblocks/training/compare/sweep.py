"""A sweep: the runs of a grid, each trained once by whichever sweep of that grid takes it first, and their table."""

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.compare.claims import POLL, claimed
from cifarblocks.training.compare.equal_time import epochs_in_equal_time, measured_speeds, speed_key
from cifarblocks.training.compare.grid import Grid, GridRun
from cifarblocks.training.compare.launch import Process, check_same_options, command_line, parse, shared_machine
from cifarblocks.training.compare.table import Row, csv_table, markdown_table
from cifarblocks.training.options.declared import Options
from cifarblocks.training.pictures.compare import draw_bars, draw_learning_curves, draw_pareto_front
from cifarblocks.training.run_folder.folder import SUMMARY, is_finished, read_json, read_metrics
from cifarblocks.training.run_folder.locks import LOCKS, InUseError, is_locked, locked, run_lock


@dataclass(frozen=True)
class Planned:
    """A run: what sets it apart, what is typed for it, where it is written, and what cifarblocks train makes of it."""

    label: str
    arguments: list[str]
    folder: Path
    options: Options

    @property
    def name(self) -> str:
        """Model and name of the run, human-readable."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def log(self) -> Path:
        """File of what the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def lock(self) -> Path:
        """File of the lock that the process holds which trains the run."""
        return run_lock(self.folder)


class Job(NamedTuple):
    """A run that this sweep trains, its process, when it began, and the claim that keeps other sweeps from it."""

    run: Planned
    process: Process
    began: float
    claim: ExitStack


def plan(run: GridRun, output: Path, epochs: int | None = None) -> Planned:
    """Return the command line of a run, read as `cifarblocks train` reads it."""
    settings = run.settings if epochs is None else {**run.settings, "epochs": epochs}
    arguments = [*command_line(settings), "--output", str(output), "--name", run.name, "--resume"]
    options = parse(arguments, f"run {run.label}: ")
    return Planned(run.label, arguments, options.output / options.model / run.name, options)


def sweep(grid: Grid, title: str, output: Path, jobs: int, *, wait: bool = True) -> int:
    """Train what is neither complete nor trained by another process, and compare: the exit status.

    Args:
        grid: The runs.
        title: Of the table and the pictures.
        output: Where all is written.
        jobs: How many runs to train at a time.
        wait: At the end, wait for the runs of other processes, and take over those that they leave.
    """
    output.mkdir(parents=True, exist_ok=True)
    epochs = choose_epochs(grid, output)
    runs = [plan(run, output, number) for run, number in zip(grid.runs, epochs, strict=True)]
    for run in runs:
        check_same_options(run.folder, run.options)
    waiting = [run for run in runs if not is_finished(run.folder)]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them complete, {jobs} at a time, in {output}", flush=True)
    failures = train_all(waiting, jobs, wait=wait)
    write_comparison(output, title, runs)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def choose_epochs(grid: Grid, output: Path) -> list[int | None]:
    """Return the epochs of each run in the time of the grid's reference; None where the grid itself says them."""
    if grid.reference is None:
        return [None] * len(grid.runs)
    with locked(output / LOCKS / "speeds.lock"):  # one sweep measures, and the others read what it wrote
        speeds = measured_speeds(output, [grid.reference, *(run.settings for run in grid.runs)])
    epochs, speed = grid.reference["epochs"], speeds[speed_key(grid.reference)]
    return [epochs_in_equal_time(speeds[speed_key(run.settings)], speed, epochs) for run in grid.runs]


def train_all(waiting: list[Planned], jobs: int, *, wait: bool) -> dict[str, str]:
    """Train the runs that no other process trains, in their order: why each of those failed that did."""
    total, look, told = len(waiting), 0.0, False
    failures: dict[str, str] = {}
    running: dict[int, Job] = {}
    try:
        while True:
            for slot in set(range(jobs)) - running.keys():
                if time.monotonic() >= look:
                    if (job := begin_next(waiting, shared_machine(slot, jobs))) is not None:
                        running[slot] = job
                        print(f"[{total - len(waiting)}/{total}] {job.run.name} begins", flush=True)
                    else:
                        look = time.monotonic() + POLL
            if not running and not (waiting and wait):
                return failures
            if not running and not told:
                names = ", ".join(run.name for run in waiting)
                print(f"waiting for runs that other processes train: {names}", flush=True)
                told = True
            time.sleep(0.1)
            for slot, job in list(running.items()):
                if job.process.status is not None:
                    del running[slot]
                    outcome = describe_end(job, waiting, failures)
                    job.claim.close()
                    print(f"{job.run.name} {outcome} after {time.monotonic() - job.began:,.0f} s", flush=True)
    finally:
        for job in running.values():
            job.process.ask_to_stop()
        for job in running.values():
            job.process.stop()
            job.claim.close()


def begin_next(waiting: list[Planned], environment: dict[str, str]) -> Job | None:
    """Begin the first run that no other process trains; take it off the list, and those that are complete by now."""
    for run in list(waiting):
        with ExitStack() as claim:
            try:
                claim.enter_context(claimed(run.lock.with_suffix(".claim"), [run.lock]))
            except InUseError:
                continue
            waiting.remove(run)
            if not is_finished(run.folder):
                process = Process(run.arguments, run.log, environment)
                return Job(run, process, time.monotonic(), claim.pop_all())
    return None


def describe_end(job: Job, waiting: list[Planned], failures: dict[str, str]) -> str:
    """Return how a run ended; a failure is noted, and a run that another process has locked waits again."""
    run, process = job.run, job.process
    if process.status == 0 and is_finished(run.folder):
        return f"ends with test top-1 {read_json(run.folder / SUMMARY)['test_top1']:.2f} %"
    if process.status == 2 and is_locked(run.lock):
        waiting.append(run)
        return "is left to the process that trains it already,"
    failures[run.name] = f"{process.last_words()} (more in {process.log})"
    return "failed"


def collect(runs: list[Planned]) -> list[Row]:
    """Return the complete runs, those that differ by the seed alone in one row."""
    rows: dict[str, Row] = {}
    for run in runs:
        if is_finished(run.folder):
            row = rows.setdefault(run.label, Row(run.label, [], []))
            row.summaries.append(read_json(run.folder / SUMMARY))
            row.histories.append(read_metrics(run.folder))
    return list(rows.values())


def write_comparison(output: Path, title: str, runs: list[Planned]) -> None:
    """Write the tables and the pictures of what is complete, and print the table."""
    rows = collect(runs)
    if not rows:
        return
    missing = [run.name for run in runs if not is_finished(run.folder)]
    table = markdown_table(title, rows, missing)
    write_atomically(output / "table.md", table.encode())
    write_atomically(output / "table.csv", csv_table(rows).encode())
    draw_pareto_front(output / "pareto.png", title, rows)
    draw_learning_curves(output / "curves.png", title, rows)
    draw_bars(output / "bars.png", title, rows)
    files = ("table.md", "table.csv", "pareto.png", "curves.png", "bars.png")
    print(f"\n{table}\nwrote", *(output / name for name in files), sep="\n  ")
