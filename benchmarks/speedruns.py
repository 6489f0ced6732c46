"""Collect the seeds of examples/speedrun.py and write the table of the record.

    python benchmarks/speedruns.py runs/speedrun...

Each folder is an --output of speedrun.py. Writes the results of all seeds to benchmarks/results/speedrun.json, and a
line for each folder to speedrun.md. Takes a few seconds.
"""

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measuring import collect, markdown, read_result, write

from cifarblocks.training.errors import UserError

COLUMNS = ["data", "target", "scored on", "seeds", "top-1", "of each seed", "seconds", "PFLOP"]
COLUMNS += ["share of peak", "peak, GFLOP/s", "machine", "command"]

HEAD = """# The record on two CPU cores

Made by `python benchmarks/speedruns.py` from the files that `examples/speedrun.py` writes.
[speedrun.json](speedrun.json) has all of them. Values are means over the seeds ± their standard deviation.

- Seconds are wall clock time of training. The images are scored once, after training.
- "CIFAR-10 (JPEG copies)" is all of CIFAR-10 as JPEG files of quality 75 with halved colour resolution. Its accuracies
  cannot be compared with those on the original files.
- The peak is the best rate of a 3×3 convolution of 64 channels with its gradients, measured before each seed.

"""


def mean(numbers: Iterable[float], digits: int) -> str:
    """Return the mean over all seeds, with the standard deviation where there are several."""
    values = list(numbers)
    deviation = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{digits}f}{deviation}"


def cells(seeds: list[dict[str, Any]]) -> list[str]:
    """Return one folder as a line of the table."""
    first = seeds[0]
    kind, number = first["images"]
    return [
        first["options"]["data"],
        first["options"]["target"],
        f"{number:,} {kind}",
        str(len(seeds)),
        mean((seed["top1"] for seed in seeds), 2) + " %",
        ", ".join(f"{seed['top1']:.2f}" for seed in seeds),
        mean((seed["seconds"] for seed in seeds), 0),
        f"{first['flops'] / 1e15:.3f}",
        mean((100 * seed["share_of_peak"] for seed in seeds), 0) + " %",
        mean((seed["peak_flops_per_second"] / 1e9 for seed in seeds), 0),
        f"{first['machine']['cpu']}, {first['machine']['threads']} threads",
        f"`{first['command']}`",
    ]


def read(folder: Path) -> list[dict[str, Any]]:
    """Read the seeds of a folder.

    Raises:
        UserError: if it has none, or a file is not a result of speedrun.py.
    """
    seeds = [
        read_result(path, lambda seed: markdown([], [cells([seed])])) for path in sorted(folder.glob("seed_*.json"))
    ]
    if not seeds:
        raise UserError(f"FOLDER {folder} has no seed_*.json, which speedrun.py writes into its --output")
    return seeds


def table(runs: list[list[dict[str, Any]]]) -> str:
    """Return the page, with a line for each folder."""
    return HEAD + markdown(COLUMNS, map(cells, runs))


def main(folders: list[Path]) -> None:
    """Read the folders and write the results."""
    runs = list(map(read, folders))
    write("speedrun", runs, table(runs))


if __name__ == "__main__":
    sys.exit(collect(__doc__, "FOLDER", main))
