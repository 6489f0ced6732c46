"""Compare fine-tuning from weights of the package with a random start, on few images of the digits.

    python benchmarks/transfer.py

eca_resnet_20 trains on 5 %, 20 % and all of the training images. It starts from random weights with its family's
recipe, and from eca_resnet_20.cifar10_jpeg with the recipes of fine-tuning and of the family. All runs have the same
images. The last epoch is tested once. Runs are kept in runs/transfer, and the same command continues them. Takes 15
minutes on 1 CPU core. Writes benchmarks/results/transfer.json and transfer.md.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from measuring import described, markdown, measure_all, read_result

from cifarblocks.cli import finetune, train

WEIGHTS, MODEL = "eca_resnet_20.cifar10_jpeg", "eca_resnet_20"
OUTPUT = Path("runs/transfer")
SHARES, SEEDS = (0.05, 0.2, 1.0), (0, 1, 2)
FAMILY, FINE_TUNING = "residual_networks_muon", "fine_tuning_adamw"
STARTS = {  # title → command, start
    "random start": (train.main, ["--model", MODEL, "--recipe", FAMILY]),
    "weights, recipe of fine-tuning": (finetune.main, ["--weights", WEIGHTS, "--recipe", FINE_TUNING]),
    "weights, recipe of the family": (finetune.main, ["--weights", WEIGHTS, "--recipe", FAMILY]),
}
COMMON = f"--data digits --final --resume --output {OUTPUT}".split()


def trained(title: str, share: float, seed: int) -> dict[str, Any]:
    """Train one run unless it is finished, and return its result."""
    command, begin = STARTS[title]
    name = f"{title.replace(',', '').replace(' ', '_')}_{share:g}_{seed}"
    status = command([*begin, *COMMON, "--share", str(share), "--seed", str(seed), "--name", name])
    if status:
        raise RuntimeError(f"{name} ended with status {status}")
    summary = read_result(OUTPUT / MODEL / name / "summary.json", lambda found: found["test_top1"])
    kept = ("test_top1", "training_images", "test_images", "epochs", "seed")
    return {"start": title, "share": share, **{key: summary[key] for key in kept}}


def measure() -> dict[str, Any]:
    """Return the results of all runs, each on one thread."""
    torch.set_num_threads(1)
    return {"runs": [trained(title, share, seed) for share in SHARES for title in STARTS for seed in SEEDS]}


def table(record: dict[str, Any]) -> str:
    """Return the page."""
    rows = []
    for share in SHARES:
        cells = [f"{next(run['training_images'] for run in record['runs'] if run['share'] == share):,}"]
        for title in STARTS:
            runs = [run for run in record["runs"] if (run["share"], run["start"]) == (share, title)]
            found = [run["test_top1"] for run in runs]
            cells.append(f"{statistics.mean(found):.2f} ± {statistics.stdev(found):.2f} %, {runs[0]['epochs']} epochs")
        rows.append(cells)
    return f"""# Fine-tuning from weights of the package

Made by `python benchmarks/transfer.py`: top-1 on the 360 test images of the digits, mean ± standard deviation over
{len(SEEDS)} seeds.

- The weights are `{WEIGHTS}`, which were trained on photos.
- The recipes are `{FINE_TUNING}` and, for the family, `{FAMILY}`.
- Top-1 is that of the last epoch.
- {described(record)}.

{markdown(("training images", *STARTS), rows)}"""


if __name__ == "__main__":
    measure_all("transfer", __doc__, measure, table)
