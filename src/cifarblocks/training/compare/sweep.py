"""A sweep: the runs of a grid, divided between the sweeps of that grid, and their table."""

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
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.declared import Options
from cifarblocks.training.pictures.compare import draw_bars, draw_learning_curves, draw_pareto_front
from cifarblocks.training.run_folder.folder import METRICS, SUMMARY, is_finished, read_metrics, read_summary
from cifarblocks.training.run_folder.locks import LOCKS, InUseError, is_locked, locked, run_lock


@dataclass(frozen=True)
class Planned:
    """A run of the grid, its command line, its folder, and the options that cifarblocks train reads from it."""

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
        """File of the run's output."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def lock(self) -> Path:
        """File of the run's lock, held by the process that trains it."""
        return run_lock(self.folder)


class Job(NamedTuple):
    """A run that this sweep trains, its process, its start time, and its claim against other sweeps."""

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
    """Train the runs that are neither complete nor trained elsewhere, compare all, and return the exit status.

    Args:
        grid: The runs.
        title: Title of the table and the pictures.
        output: Folder of the results.
        jobs: Number of runs to train at a time.
        wait: At the end, wait for the runs of other processes, and take over those that they abandon.
    """
    output.mkdir(parents=True, exist_ok=True)
    epochs = choose_epochs(grid, output)
    runs = [plan(run, output, number) for run, number in zip(grid.runs, epochs, strict=True)]
    for run in runs:
        check_same_options(run.folder, run.options)
    waiting = [run for run in runs if read_summary(run.folder) is None]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them complete, {jobs} at a time, in {output}", flush=True)
    failures = train_all(waiting, jobs, wait=wait)
    write_comparison(output, title, runs)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def choose_epochs(grid: Grid, output: Path) -> list[int | None]:
    """Return the epochs of each run in the time of the grid's reference; None if the grid gives the epochs."""
    if grid.reference is None:
        return [None] * len(grid.runs)
    with locked(output / LOCKS / "speeds.lock"):  # one sweep measures, and the others read its speeds
        speeds = measured_speeds(output, [grid.reference, *(run.settings for run in grid.runs)])
    epochs, speed = grid.reference["epochs"], speeds[speed_key(grid.reference)]
    return [epochs_in_equal_time(speeds[speed_key(run.settings)], speed, epochs) for run in grid.runs]


def train_all(waiting: list[Planned], jobs: int, *, wait: bool) -> dict[str, str]:
    """Train the runs that no other process trains, in their order; return the reason of each failure."""
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
                print(f"waiting for runs of other processes: {names}", flush=True)
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
    """Begin the first run that no other process trains; remove it and the runs completed since from the list."""
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
    """Return the outcome of a run; record a failure, and queue a run again that another process has locked."""
    run, process = job.run, job.process
    if process.status == 0 and (summary := read_summary(run.folder)) is not None:
        return f"ends with test top-1 {summary['test_top1']:.2f} %"
    if process.status == 2 and is_locked(run.lock):
        waiting.append(run)
        return "is left to the process that trains it already,"
    failures[run.name] = f"{process.last_words()} (more in {process.log})"
    return "failed"


def collect(runs: list[Planned]) -> list[Row]:
    """Return the complete runs, in one row those that differ only in the seed.

    Raises:
        UserError: If a file of a run has changed since the run wrote it.
    """
    rows: dict[str, Row] = {}
    for run in runs:
        if (summary := read_summary(run.folder)) is not None:
            row = rows.setdefault(run.label, Row(run.label, [], []))
            row.summaries.append(summary)
            row.histories.append(history := read_metrics(run.folder))
            if len(history) != summary["epochs"]:
                path, epochs = run.folder / METRICS, summary["epochs"]
                raise UserError(f"{path} has {len(history)} epochs of {epochs}; remove {SUMMARY} to have both written")
    return list(rows.values())


def write_comparison(output: Path, title: str, runs: list[Planned]) -> None:
    """Write the tables and the pictures of the complete runs, and print the table."""
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
