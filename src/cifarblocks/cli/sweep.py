"""Train many models and compare them: a grid of models, arguments, options and seeds from a TOML file.

    cifarblocks sweep eca_kernel                   # 18 runs on CIFAR-10, one after the other
    cifarblocks sweep ghost_ratio --jobs 2 --set data=digits --set epochs=5 --set seed=[0,1]
    cifarblocks sweep my_grid.toml --dry-run                           # what it would run

Each run is `cifarblocks train` in a process of its own, and its output is in OUTPUT/MODEL/NAME.log. Repeat the command
after a failure, Ctrl-C or a power cut: complete runs are skipped, and interrupted ones are resumed. Several of these
commands share the runs, on one machine or on many that share the disk of OUTPUT. At the end each writes table.md,
table.csv and pictures to OUTPUT. The second example takes 2 minutes on 2 CPU cores.
"""

import shlex
from pathlib import Path

from cifarblocks.training.compare.grid import GRIDS, grid_path, read_grid, read_value
from cifarblocks.training.compare.launch import command_line, parse
from cifarblocks.training.compare.sweep import plan, sweep
from cifarblocks.training.options.command_line import Parser, integer, new_path
from cifarblocks.training.output import escaped
from cifarblocks.training.stopping import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 if a run failed, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks sweep", __doc__, usage="GRID [options]")
    add = parser.add_argument
    names = ", ".join(sorted(path.stem for path in GRIDS.glob("*.toml")))
    add("grid", type=grid_path, help=f"a TOML file, or one of {names}")
    add("--set", metavar="KEY=VALUE", type=read_value, action="append", default=[],
        help="overrides a value of the grid: epochs=5, seed=[0,1], model-argument.ratio=3; repeatable")  # fmt: skip
    add("--jobs", type=integer(1, 4096), default=1,
        help="runs at a time; they share the CPU's cores, or take the GPUs in turn (default: %(default)s)")  # fmt: skip
    add("--no-wait", action="store_true",
        help="end when no run is left to start; do not wait for the runs of other processes")  # fmt: skip
    add("--output", type=new_path, help="folder of the results (default: runs/ and the name of the grid)")
    add("--dry-run", action="store_true",
        help="print the command of each run and exit; epochs that depend on a measured speed are left out")  # fmt: skip
    options = parser.parse_args(arguments)
    changes = parser.by_name("--set", options.set)
    output = options.output or Path("runs") / options.grid.stem

    def work() -> int | None:
        grid = read_grid(options.grid, changes)
        planned = [plan(run, output) for run in grid.runs]
        if grid.reference is not None:
            parse(command_line(grid.reference), "[equal-time]: ")
        if not options.dry_run:
            return sweep(grid, escaped(options.grid.stem), output, options.jobs, wait=not options.no_wait)
        print(*(shlex.join(["cifarblocks", "train", *run.arguments]) for run in planned), sep="\n")
        return None

    return exit_status("cifarblocks sweep", work, "repeat the command to continue")
