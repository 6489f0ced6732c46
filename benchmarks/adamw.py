"""Train the grid `adamw` without a test, and compare AdamW with Muon on the validation images.

    python benchmarks/adamw.py
    python benchmarks/adamw.py --output runs/adamw --set "data=folder:CIFAR-10 (JPEG copies)"

Runs one `cifarblocks train --no-test` after the other. After a stop, the same command continues. Writes the
configuration and the epochs of each run to benchmarks/results/adamw.json, and the table to adamw.md. Takes half an hour
on one core of an Intel Xeon.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import markdown, write

from cifarblocks.training.compare.grid import GRIDS, read_grid, read_value
from cifarblocks.training.compare.launch import TRAIN, check_same_options
from cifarblocks.training.compare.sweep import Planned, plan
from cifarblocks.training.errors import RunError
from cifarblocks.training.options.command_line import Parser, new_path
from cifarblocks.training.run_folder.folder import CONFIGURATION, read_json, read_metrics
from cifarblocks.training.stopping import exit_status

COLUMNS = ["network", "optimizer", "learning rate", "epochs", "share", "validation top-1", "validation loss", "seconds"]


def train(run: Planned) -> dict[str, Any]:
    """Train a run that is not complete, and return its record.

    Raises:
        RunError: If it fails.
    """
    check_same_options(run.folder, run.options)
    if len(read_metrics(run.folder)) < run.options.epochs:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        status = subprocess.run([sys.executable, *TRAIN, *run.arguments, "--no-test"], env=environment).returncode
        if status:
            raise RunError(f"{run.name} ended with exit status {status}")
    configuration = read_json(run.folder / CONFIGURATION)
    kept = ("model", "model_argument", "optimizer", "lr", "weight_decay", "clip", "epochs", "share", "seed")
    return {
        **{key: configuration["options"][key] for key in (*kept, "batch_size", "precision")},
        "data": configuration["data"]["name"],
        **{key: configuration[key] for key in ("machine", "versions", "command")},
        "history": read_metrics(run.folder),
    }


def network(row: dict[str, Any]) -> str:
    """Return the name of the model with its arguments."""
    return " ".join([row["model"], *(f"{name}={value}" for name, value in row["model_argument"].items())])


def cells(row: dict[str, Any]) -> list[str]:
    """Return one run as a line of the table."""
    last, seconds = row["history"][-1], sum(line["seconds"] for line in row["history"])
    settings = [network(row), row["optimizer"], f"{row['lr']:g}", str(row["epochs"]), f"{row['share']:g}"]
    return [*settings, f"{last['validation_top1']:.2f} %", f"{last['validation_loss']:.3f}", f"{seconds:,.0f}"]


def table(record: dict[str, Any]) -> str:
    """Return the page; the runs with the lowest loss of each network and length come first."""
    rows = record["rows"]
    networks = list(dict.fromkeys(map(network, rows)))

    def place(row: dict[str, Any]) -> tuple[int, float, float]:
        return networks.index(network(row)), row["epochs"] * row["share"], row["history"][-1]["validation_loss"]

    first = rows[0]
    machine, versions = first["machine"], first["versions"]
    return f"""# AdamW and Muon

Made by `python benchmarks/adamw.py`: one recipe with AdamW, and with Muon for the matrices of blocks.

- Learning rates are per 256 images, in batches of {first["batch_size"]}. Each row is one run with seed {first["seed"]}
  (n = 1).
- "share" is the share of the 45,000 training images.
- Accuracy and loss are of the last epoch, on the 5,000 validation images. The test images were not used.
- Seconds are wall clock time on a machine with other work, so they do not compare the optimizers.
- {first["data"]}; {machine["cpu"]}, {machine["threads"]} thread, {first["precision"]}; torch {versions["torch"]}.

{markdown(COLUMNS, map(cells, sorted(rows, key=place)))}"""


def main() -> int:
    """Run the command line; the exit status is 0, 1 if a run failed, or 2 for a command that cannot work."""
    parser = Parser(Path(__file__).name, __doc__)
    parser.add_argument("--output", type=new_path, default=Path("runs/adamw"), help="where the runs are written")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", type=read_value, action="append", default=[], help="instead of what the grid says"
    )
    options = parser.parse_args()
    changes = parser.by_name("--set", options.set)

    def work() -> None:
        runs = [plan(run, options.output) for run in read_grid(GRIDS / "adamw.toml", changes).runs]
        record = {"rows": [train(run) for run in runs]}
        write("adamw", record, table(record))

    return exit_status(Path(__file__).name, work, "repeat the command to continue")


if __name__ == "__main__":
    sys.exit(main())
