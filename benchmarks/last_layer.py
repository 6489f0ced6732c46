"""Compare training the last layer on stored features with running the frozen network in every epoch.

    python benchmarks/last_layer.py

Two networks train on the digits of the package. vit_tiny_cifar has random weights with timm's names, loaded by
`load_published`; only its time is measured. resnet_20 is first trained on the digits 0 to 4. Then its last layer alone,
and the whole network, are fine-tuned on all ten. Times are CPU time of this process, so other work on the machine does
not count. Takes 3 minutes on 1 CPU core. Writes benchmarks/results/last_layer.json and last_layer.md.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from measuring import described, measure_all
from PIL import Image

from cifarblocks.cli import finetune
from cifarblocks.cli.train import main as train
from cifarblocks.training.data.datasets import load_digits
from cifarblocks.training.distributed import ALONE
from cifarblocks.training.finetune.probe import freeze, last_layer
from cifarblocks.training.loop import fit
from cifarblocks.training.run import Run, prepare

EPOCHS, TURNS = 100, 3
TITLES = {"vit_tiny_cifar": "random weights", "resnet_20": "trained on the digits 0 to 4"}


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds that all threads of this process need for `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def prepared(arguments: list[str], name: str) -> Run:
    """Return a run of `cifarblocks finetune --freeze` before its features are computed."""
    options, start = finetune.parse_arguments([*arguments, "--freeze", "--name", name, "--epochs", str(EPOCHS)])
    return prepare(options, ALONE, start.build)


def costs(arguments: list[str]) -> dict[str, Any]:
    """Return the CPU seconds to compute the features, to read them, and of an epoch with and without them."""
    run = prepared(arguments, "measured")
    found: list[Run] = []
    computing = cpu_seconds(lambda: found.append(freeze(run)))
    reading = cpu_seconds(lambda: freeze(run))
    epochs = cpu_seconds(lambda: list(fit(found[0])))
    return {
        "model": run.options.model,
        "images": len(run.data.train.labels) + len(run.data.test.labels),
        "features": last_layer(run.state.model).in_features,
        "precision": run.options.precision,
        "epochs": EPOCHS,
        "computing_features": computing,
        "reading_features": reading,
        "epochs_on_features": epochs,
        "epoch_through_network": [cpu_seconds(lambda: through_network(run)) for _ in range(TURNS)],
    }


@torch.no_grad()
def through_network(run: Run) -> None:
    """Run the frozen network on every training and validation image, as an epoch without stored features does."""
    run.state.model.eval()
    for images in (run.batches.training, run.batches.validation):
        for batch, _ in run.batches.of_images(images):
            with run.autocast:
                run.state.model(batch)


def half_of_the_digits(folder: Path) -> None:
    """Write the digits 0 to 4 as a folder of image files."""
    digits = load_digits()
    for part, images in (("train", digits.train), ("test", digits.test)):
        for place, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            if label < 5:
                path = folder / part / str(label) / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(path)


def accuracies(folder: Path, weights: list[str], output: list[str]) -> dict[str, float]:
    """Return test accuracies on all digits, of the last layer alone and of the whole network, each with its recipe."""
    results = {}
    for name, options in {"last_layer": ["--freeze"], "whole_network": []}.items():
        finetune.main([*weights, *output, *options, "--name", name])
        results[name] = json.loads((folder / "resnet_20" / name / "summary.json").read_text())["test_top1"]
    return results


def measure() -> dict[str, Any]:
    """Measure both networks on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = ["--output", name, "--data-dir", str(folder / "data")]
        torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit.pth")
        vit = ["--weights", str(folder / "vit.pth"), "--source", "timm", "--model", "vit_tiny_cifar"]
        half_of_the_digits(folder / "half")
        half = ["--data", f"folder:{folder / 'half'}", "--no-mirror", "--name", "half"]
        train([*places, "--model", "resnet_20", "--recipe", "residual_networks_sgd", *half])
        resnet = ["--weights", str(folder / "resnet_20" / "half" / "last.safetensors")]
        networks = [costs([*vit, *places]), costs([*resnet, *places])]
        return {"networks": networks, "test_top1": accuracies(folder, resnet, places)}


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows = []
    for row in record["networks"]:
        epoch = statistics.median(row["epoch_through_network"])
        kept, again = (row[part] + row["epochs_on_features"] for part in ("computing_features", "reading_features"))
        cells = [f"{row['model']}, {TITLES[row['model']]}", f"{EPOCHS * epoch:,.0f} s", f"{kept:,.1f} s"]
        cells += [f"{again:,.1f} s", f"{EPOCHS * epoch / kept:,.0f}", f"{EPOCHS * epoch / again:,.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    top1, precision = record["test_top1"], record["networks"][0]["precision"]
    lines = "\n".join(rows)
    return f"""# The last layer alone

Made by `python benchmarks/last_layer.py`: {EPOCHS} epochs of the last layer on the 1,797 digits of the package, at
32×32 in {precision}.

- "whole network" runs the frozen network in each epoch: {EPOCHS} times the median of {TURNS} epochs. The steps of the
  last layer are not counted.
- "stored features" computes the features once and trains on them. A later run reads them from the disk.
- Times are CPU time on 1 thread of {described(record)}.

| network | whole network | stored features, first run | later runs | ratio, first run | later runs |
|---|---:|---:|---:|---:|---:|
{lines}

A `resnet_20` was trained on the digits 0 to 4, and fine-tuned on all ten by `cifarblocks finetune` (n = 1, seed 0). On
the 360 test images, training only the last layer reaches {top1["last_layer"]:.2f} % top-1, and training the whole
network {top1["whole_network"]:.2f} %.
"""


if __name__ == "__main__":
    measure_all("last_layer", __doc__, measure, table)
