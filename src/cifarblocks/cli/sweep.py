"""Train many models and compare them: a grid of models, arguments, options and seeds, from a TOML file.

    cifarblocks sweep eca_kernel                   # 18 runs on CIFAR-10, one after the other
    cifarblocks sweep ghost_ratio --jobs 2 --set data=digits --set epochs=5 --set seed=[0,1]
    cifarblocks sweep my_grid.toml --dry-run                           # what it would run

Each run is `cifarblocks train` in a process of its own, and its output is in OUTPUT/MODEL/NAME.log. The same command
goes on after a failure, a Ctrl-C or a power cut: what is complete is skipped, what was cut off is resumed. At the end
it writes table.md, table.csv and pictures to OUTPUT. The second line takes 2 minutes on 2 CPU cores.
"""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.compare.equal_time import epochs_in_equal_time, measured_speeds, speed_key
from cifarblocks.training.compare.grid import GRIDS, Grid, GridRun, grid_path, read_grid, read_value
from cifarblocks.training.compare.launch import Process, check_same_options, command_line, parse, shared_machine
from cifarblocks.training.compare.table import Row, csv_table, markdown_table
from cifarblocks.training.options.command_line import Parser, integer
from cifarblocks.training.options.declared import Options
from cifarblocks.training.pictures.compare import draw_bars, draw_learning_curves, draw_pareto_front
from cifarblocks.training.run_folder.folder import SUMMARY, is_finished, lock, read_json, read_metrics, releasing_locks
from cifarblocks.training.stopping import exit_status, stop_on_signals


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


def plan(run: GridRun, output: Path, epochs: int | None) -> Planned:
    """Return the command line of a run, read as `cifarblocks train` reads it."""
    settings = run.settings if epochs is None else {**run.settings, "epochs": epochs}
    arguments = [*command_line(settings), "--output", str(output), "--name", run.name, "--resume"]
    options = parse(arguments, f"run {run.label}: ")
    return Planned(run.label, arguments, options.output / options.model / run.name, options)


def train_all(waiting: list[Planned], jobs: int) -> dict[str, str]:
    """Train the runs, some at a time, in their order: why each of those failed that did."""
    total, begun = len(waiting), 0
    failures: dict[str, str] = {}
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
    """Return how a run ended; a failure is noted."""
    if process.status == 0 and is_finished(run.folder):
        return f"ends with test top-1 {read_json(run.folder / SUMMARY)['test_top1']:.2f} %"
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


def choose_epochs(grid: Grid, output: Path) -> list[int | None]:
    """Return the epochs of each run in the time of the grid's reference; None where the grid itself says them."""
    if grid.reference is None:
        return [None] * len(grid.runs)
    speeds = measured_speeds(output, [grid.reference, *(run.settings for run in grid.runs)])
    epochs, speed = grid.reference["epochs"], speeds[speed_key(grid.reference)]
    return [epochs_in_equal_time(speeds[speed_key(run.settings)], speed, epochs) for run in grid.runs]


@releasing_locks()
def sweep(grid: Grid, title: str, output: Path, jobs: int) -> int:
    """Train what is not complete, and compare: the exit status."""
    output.mkdir(parents=True, exist_ok=True)
    lock(output)
    epochs = choose_epochs(grid, output)
    runs = [plan(run, output, number) for run, number in zip(grid.runs, epochs, strict=True)]
    for run in runs:
        check_same_options(run.folder, run.options)
    waiting = [run for run in runs if not is_finished(run.folder)]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them complete, {jobs} at a time, in {output}", flush=True)
    failures = train_all(waiting, jobs)
    write_comparison(output, title, runs)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 if a run failed, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks sweep", __doc__, usage="GRID [options]")
    add = parser.add_argument
    names = ", ".join(sorted(path.stem for path in GRIDS.glob("*.toml")))
    add("grid", type=grid_path, help=f"a TOML file, or one of {names}")
    add("--set", metavar="KEY=VALUE", type=read_value, action="append", default=[],
        help="instead of what the grid says: epochs=5, seed=[0,1], model-argument.ratio=3; repeatable")  # fmt: skip
    add("--jobs", type=integer(1), default=1,
        help="runs at a time; they share the CPU's cores, or take the GPUs in turn (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, help="where all is written (default: runs/ and the name of the grid)")
    add("--dry-run", action="store_true",
        help="print the command of each run, without epochs that are to be measured first, and leave")  # fmt: skip
    options = parser.parse_args(arguments)
    output = options.output or Path("runs") / options.grid.stem
    stop_on_signals()

    def work() -> int | None:
        grid = read_grid(options.grid, dict(options.set))
        planned = [plan(run, output, None) for run in grid.runs]
        if grid.reference is not None:
            parse(command_line(grid.reference), "[equal-time]: ")
        if not options.dry_run:
            return sweep(grid, options.grid.stem, output, options.jobs)
        print(*(shlex.join(["cifarblocks", "train", *run.arguments]) for run in planned), sep="\n")
        return None

    return exit_status("cifarblocks sweep", work, "the same command goes on")
