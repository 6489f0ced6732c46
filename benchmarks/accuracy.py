"""Write the tables of accuracies of the weights in the package and of runs of cifarblocks train.

    python benchmarks/accuracy.py runs/MODEL/NAME...

Adds each run's summary.json to benchmarks/results/accuracy.json. Writes accuracy.md from all runs in that file and from
the cards of the weights. Takes a few seconds.
"""

import sys
from pathlib import Path
from typing import Any

from measuring import collect, markdown, read_record, read_result, write

import cifarblocks
from cifarblocks.pretrained import find_weights

WEIGHTS = """# Accuracies

## Weights in the package

Made by `python benchmarks/pretrained.py` from the cards of the weights. `cifarblocks.load(name)` loads them.

- Accuracy is that of the last epoch. It was measured once on the test images.
- Hours are wall clock time on a machine with other work. Some runs were paused in between.

"""
RUNS = """
## Runs

Made by `python benchmarks/accuracy.py` from the `summary.json` of each run. [accuracy.json](accuracy.json) has all of
them.

- Top-1 is that of the weights of the last epoch. It was measured once on the test images.
- A run has one seed. Rows that differ only in the seed show how much a seed changes; for the others it was not
  measured.
- "CIFAR-10 (JPEG copies)" is all of CIFAR-10 as JPEG files of quality 75 with halved colour resolution. Accuracy is a
  few points lower than on the original files, so the two cannot be compared.
- Some commands are of older versions: for `python examples/train.py`, type `cifarblocks train`. To repeat a run with
  SGD, also pass `--recipe residual_networks_sgd`, because the recipe of the family uses Muon now.
- The accuracies are slightly too high, because some default options were chosen on these test images. Learning rate and
  batch size were chosen among five values by runs of 1 and 5 epochs with SGD. Crops shifted by up to 3 pixels were
  better than up to 4 after 5 epochs, and slightly better than up to 2 after 30 epochs.
- Label smoothing, Muon and its rate were chosen on validation images, in runs that were not kept.
  [Optimizers](optimizer.md) compares Muon and SGD in 4 epochs of two networks.
- The same command uses bfloat16 if the hardware has it.
- Hours are wall clock time on a machine with other work. Some runs were paused in between.

"""
WEIGHTS_COLUMNS = ["weights", "data", "epochs", "top-1", "top-5", "test images", "seeds", "size", "hours", "machine"]
WEIGHTS_COLUMNS += ["command"]
COLUMNS = ["model", "data", "epochs", "trained on", "top-1", "top-5", "parameters", "multiply-adds", "seed"]
COLUMNS += ["optimizer", "precision", "processes", "hours", "machine", "command"]


def cells(summary: dict[str, Any]) -> list[str]:
    """Return one run as a line of the table."""
    configuration = summary["configuration"]
    machine = configuration["machine"]
    values = [
        summary["model"],
        summary["data"],
        summary["epochs"],
        f"{summary['training_images']:,}",
        f"{summary['test_top1']:.2f} %",
        f"{summary['test_top5']:.2f} %",
        f"{summary['parameters']:,}",
        f"{summary['multiply_adds']:,}",
        summary["seed"],
        configuration["options"]["optimizer"],
        configuration["options"]["precision"],
        summary["world_size"],
        f"{summary['seconds'] / 3600:.2f}",
        machine.get("gpu", f"{machine['cpu']}, {machine['cores']} cores"),
        f"`{configuration['command']}`",
    ]
    return [str(value) for value in values]


def weights_cells(name: str) -> list[str]:
    """Return weights of the package as a line of the table."""
    path = find_weights(name)
    card = cifarblocks.load(name).card
    accuracy: dict[str, Any] = card.accuracy or {}
    values = [
        f"`{name}`",
        card.data,
        card.epoch,
        f"{accuracy['top1']:.2f} %",
        f"{accuracy['top5']:.2f} %",
        f"{accuracy['images']:,}",
        ", ".join(map(str, accuracy["seeds"])),
        f"{path.stat().st_size / 1e6:.2f} MB",
        card.hours,
        card.machine,
        f"`{card.command}`",
    ]
    return [str(value) for value in values]


def table(record: dict[str, dict[str, Any]]) -> str:
    """Return the page of the weights in the package and of all runs of the record."""
    order = ("data", "model", "epochs", "seed")
    summaries = sorted(record.values(), key=lambda summary: [summary[key] for key in order])
    weights = markdown(WEIGHTS_COLUMNS, map(weights_cells, cifarblocks.list_weights()))
    return WEIGHTS + weights + RUNS + markdown(COLUMNS, map(cells, summaries))


def main(folders: list[Path]) -> None:
    """Add the summaries to the record and write the table."""
    read = {f"{run.parent.name}_{run.name}": read_result(run / "summary.json", cells) for run in folders}
    record = read_record("accuracy") | read
    write("accuracy", record, table(record))


if __name__ == "__main__":
    sys.exit(collect(__doc__, "RUN", main))
