"""Write the tables of accuracies: of the weights in the package, and of runs of cifarblocks train.

    python benchmarks/accuracy.py runs/MODEL/NAME...

Adds each run's summary.json to benchmarks/results/accuracy.json, and writes accuracy.md from all that are in it and
from the cards of the weights. Takes a few seconds.
"""

import sys
from pathlib import Path
from typing import Any

from measuring import collect, markdown, read_record, read_result, write

import cifarblocks
from cifarblocks.pretrained import find_weights

WEIGHTS = """# Accuracies

## Weights in the package

Made by `python benchmarks/pretrained.py` from the card of each weight: accuracy on the test images, once, of the last
epoch. `cifarblocks.load(name)` loads them. Hours are wall clock, with other work beside and pauses between.

"""
RUNS = """
## Runs

Made by `python benchmarks/accuracy.py` from the `summary.json` of each run, all of them in
[accuracy.json](accuracy.json). Top-1 on the test images, once, with the weights of the last epoch; one seed unless
several rows differ by it alone. The runs by SGD are older than Muon in the family's recipe: today their command needs
`--recipe residual_networks_sgd` too. "CIFAR-10 (JPEG copies)" is all of CIFAR-10 as JPEG files of quality 75 with
halved colour resolution: a few points below the original files, and not to be compared with numbers on those. Of the
default options, learning rate and batch size were chosen among five by how well runs of 1 and 5 epochs by SGD did on
those test images, and the crop of 3 pixels because 4 did worse there in 5 epochs and 2 a little in 30, so its
accuracies are a little too good; label smoothing, Muon and its rate were chosen on images held out, in runs that are
not kept. Muon and SGD in 4 epochs of two networks are compared in [optimizer](optimizer.md). The same command chooses
bfloat16 where the hardware has it; rows that differ by their seed alone show how much another seed changes, which for
the others was not measured. Hours are wall clock, with other work beside and pauses between.

"""
WEIGHTS_COLUMNS = ["weights", "data", "epochs", "top-1", "top-5", "test images", "seeds", "size", "hours", "machine"]
WEIGHTS_COLUMNS += ["command"]
COLUMNS = ["model", "data", "epochs", "trained on", "top-1", "top-5", "parameters", "multiply-adds", "seed"]
COLUMNS += ["optimizer", "precision", "processes", "hours", "machine", "command"]


def cells(summary: dict[str, Any]) -> list[str]:
    """One run as a line of the table."""
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
    """Weights of the package as a line of the table."""
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
    """The page, of the weights in the package and all the summaries that are kept."""
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
