"""Train many models and compare them: a grid of models, arguments, options and seeds, from a TOML file.

    python examples/sweep.py examples/grids/eca_kernel.toml                   # 18 runs on CIFAR-10, one after the other
    python examples/sweep.py examples/grids/ghost_ratio.toml --jobs 2 --set data=digits --set epochs=5 --set seed=[0,1]
    python examples/sweep.py my_grid.toml --dry-run                           # what it would run

Each run is train.py in a process of its own, and what it prints is in OUTPUT/MODEL/NAME.log. The same command goes on
after a failure, a Ctrl-C or a power cut: what is complete is skipped, what was cut off is resumed. At the end it writes
table.md, table.csv and pictures to OUTPUT. The second line takes 2 minutes on 2 CPU cores.
"""

import json
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments import Parser, integer
from training.comparison import Row, csv_table, markdown_table
from training.comparison_pictures import draw_bars, draw_learning_curves, draw_pareto_front
from training.equal_time import epochs_in_equal_time, measured_speeds, speed_key
from training.errors import RunError, UserError
from training.files import write_atomically
from training.grids import GridRun, read_grid, read_value
from training.launching import Process, check_same_options, command_line, parse, read_metrics, shared_machine
from training.runs import SUMMARY, is_finished


@dataclass(frozen=True)
class Planned:
    """A run of the sweep: what it is called, what is typed for it, and where it is written."""

    label: str
    arguments: list[str]
    folder: Path

    @property
    def name(self) -> str:
        """For people: the model, and what its folder is called."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def plan(run: GridRun, output: Path, epochs: int | None) -> Planned:
    """The command line of a run, checked as train.py would, and against what its folder was begun with."""
    settings = run.settings if epochs is None else {**run.settings, "epochs": epochs}
    folder = output / run.settings["model"] / run.name
    arguments = [*command_line(settings), "--output", str(output), "--name", run.name, "--resume"]
    check_same_options(folder, parse(f"run {run.label}", arguments))
    return Planned(run.label, arguments, folder)


def train_all(waiting: list[Planned], jobs: int) -> dict[str, str]:
    """Train the runs, some at a time, in their order: why each of those failed that did."""
    total, begun, failures = len(waiting), 0, {}
    running: dict[int, tuple[Planned, Process, float]] = {}
    try:
        while begun < total or running:
            for slot in set(range(jobs)) - running.keys():
                if begun < total:
                    run, begun = waiting[begun], begun + 1
                    log = run.folder.with_name(f"{run.folder.name}.log")
                    running[slot] = run, Process(run.arguments, log, shared_machine(slot, jobs)), time.monotonic()
                    print(f"[{begun}/{total}] {run.name} begins", flush=True)
            time.sleep(0.1)
            for slot, (run, process, start) in list(running.items()):
                if process.status is not None:
                    del running[slot]
                    outcome = describe_end(run, process, failures)
                    print(f"{run.name} {outcome} after {time.monotonic() - start:,.0f} s", flush=True)
    finally:
        for _, process, _ in running.values():
            process.ask_to_stop()
        for _, process, _ in running.values():
            process.stop()
    return failures


def describe_end(run: Planned, process: Process, failures: dict[str, str]) -> str:
    """What came of a run; a failure is noted."""
    if process.status == 0 and is_finished(run.folder):
        return f"ends with test top-1 {json.loads((run.folder / SUMMARY).read_text())['test_top1']:.2f} %"
    failures[run.name] = f"{process.last_words()} (more in {process.log})"
    return "failed"


def collect(runs: list[Planned]) -> list[Row]:
    """The complete runs, those that differ by the seed alone in one row."""
    rows: dict[str, Row] = {}
    for run in runs:
        if is_finished(run.folder):
            row = rows.setdefault(run.label, Row(run.label, [], []))
            row.summaries.append(json.loads((run.folder / SUMMARY).read_text()))
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


def sweep(grid_file: Path, output: Path, jobs: int, changes: dict[str, Any], dry_run: bool) -> int:
    """Train what is not complete, and compare: the exit status."""
    grid = read_grid(grid_file, changes)
    epochs: list[int | None] = [None] * len(grid.runs)
    if grid.reference is not None and not dry_run:
        speeds = measured_speeds(output, [grid.reference, *(run.settings for run in grid.runs)])
        fixed = grid.reference["epochs"], speeds[speed_key(grid.reference)]
        epochs = [epochs_in_equal_time(speeds[speed_key(run.settings)], fixed[1], fixed[0]) for run in grid.runs]
    runs = [plan(run, output, number) for run, number in zip(grid.runs, epochs, strict=True)]
    if dry_run:
        print(*(shlex.join(["python", "examples/train.py", *run.arguments]) for run in runs), sep="\n")
        return 0
    waiting = [run for run in runs if not is_finished(run.folder)]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them complete, {jobs} at a time, in {output}", flush=True)
    failures = train_all(waiting, jobs)
    write_comparison(output, grid_file.stem, runs)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 if a run failed, or 2 for a command that cannot work."""
    parser = Parser("sweep.py", __doc__)
    add = parser.add_argument
    add("grid", type=Path, help="the TOML file; examples/grids has some")
    add("--set", metavar="KEY=VALUE", type=read_value, action="append", default=[],
        help="instead of what the grid says: epochs=5, seed=[0,1], model-argument.ratio=3; may be repeated")  # fmt: skip
    add("--jobs", type=integer(1), default=1,
        help="how many runs at a time; they share the CPU's cores, or take the GPUs in turn (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, help="where all is written (default: runs/ and the name of the grid)")
    add("--dry-run", action="store_true", help="print the command of each run, and leave")
    options = parser.parse_args(arguments)
    output = options.output or Path("runs") / options.grid.stem
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return sweep(options.grid, output, options.jobs, dict(options.set), options.dry_run)
    except UserError as error:
        status, sentence = 2, str(error)
    except RunError as error:
        status, sentence = 1, str(error)
    except OSError as error:
        status, sentence = 1, f"{error.filename or 'output'}: {error.strerror}; what was written before is whole"
    except KeyboardInterrupt:
        status, sentence = 130, "interrupted; the same command goes on"
    print(f"sweep.py: error: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
