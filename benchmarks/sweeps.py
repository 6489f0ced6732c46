"""Collect the results of `cifarblocks sweep`, and write the table of each grid.

    python benchmarks/sweeps.py runs/leaderboard runs/optimizer

Each folder is an --output of a grid of the package, and has the grid's name. Writes NAME.json and NAME.md to
benchmarks/results. NAME.json has the summaries and epochs of all runs, and the speeds from which epochs were computed.
Takes a few seconds.
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import collect, write

from cifarblocks.training.compare import sweep
from cifarblocks.training.compare.grid import GRIDS, read_grid
from cifarblocks.training.compare.table import Row, markdown_table
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.folder import is_finished, read_json

DIVERGED = "cifarblocks train: error: (a weight is not finite|the loss (on validation or test images )?is (nan|inf))"


def read(folder: Path) -> dict[str, Any]:
    """Return the record of a sweep.

    Raises:
        UserError: if no grid has the name of the folder, if a run is missing that did not diverge, or if a file is not
            a result of a sweep.
    """
    grid, speeds = GRIDS / f"{folder.name}.toml", folder / "speeds.json"
    if not grid.exists():
        raise UserError(f"FOLDER must be named after a grid, got {folder}")
    runs = [sweep.plan(run, folder) for run in read_grid(grid, {}).runs]
    unfinished = [run for run in runs if not is_finished(run.folder)]
    diverged = [run.name for run in unfinished if has_diverged(run)]
    missing = [run.name for run in unfinished if run.name not in diverged]
    if missing:
        raise UserError(f"FOLDER {folder} lacks {', '.join(missing)}")
    record = {"grid": folder.name, "rows": [asdict(row) for row in sweep.collect(runs)]}
    record |= {"diverged": diverged} if diverged else {}
    return record | ({"equal_time": read_json(speeds)} if speeds.exists() else {})


def has_diverged(run: sweep.Planned) -> bool:
    """Return True if the log of a run ends with a loss or weight that is not finite, as each repetition would."""
    lines = run.log.read_text(errors="replace").strip().splitlines() if run.log.exists() else []
    return bool(lines) and re.match(DIVERGED, lines[-1]) is not None


def rows(record: dict[str, Any]) -> list[Row]:
    """Return the runs of a record as `cifarblocks sweep` compares them."""
    return [Row(**row) for row in record["rows"]]


def table(record: dict[str, Any]) -> str:
    """Return the table that `cifarblocks sweep` writes."""
    return markdown_table(record["grid"], rows(record), record.get("diverged", []))


def main(folders: list[Path]) -> None:
    """Read the folders and write the results."""
    for record in map(read, folders):
        write(record["grid"], record, table(record))


if __name__ == "__main__":
    sys.exit(collect(__doc__, "FOLDER", main))
