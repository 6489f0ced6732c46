"""Compare the training input path with torchvision's data set and transforms in a DataLoader.

    python benchmarks/input_path.py

Both crop, mirror and normalise the same 50,000 random 32×32 images in batches of 256. The DataLoader has 2 persistent
workers. The two alternate, and the table has median and quartiles of their ratio in each turn. It also has the time of
a batch as a share of a training step of an accelerated resnet_20. Takes 3 minutes on 2 CPU cores. Writes
benchmarks/results/input_path.json and input_path.md.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import measure_all
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

import cifarblocks
from cifarblocks.training.data.batches import Augmentation, Normalisation, training_batches
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.hardware import supports_bfloat16
from cifarblocks.training.optim.groups import build_optimizer

IMAGES, BATCH, TURNS = 50_000, 256, 7
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.262]
CPU = torch.device("cpu")


class RandomImages(CIFAR10):
    """Data set CIFAR-10 of torchvision with random pixels instead of its files."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.data, self.targets = pixels.numpy(), labels.tolist()
        self.target_transform = None
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )


def epoch_seconds(batches: Iterable[Any]) -> float:
    """Return the seconds that all batches of an epoch take."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def step_time(batch: Tensor, labels: Tensor, steps: int = 10) -> float:
    """Return the median seconds of a training step of resnet_20 with SGD."""
    torch.manual_seed(0)
    model = cifarblocks.accelerate(cifarblocks.create_model("resnet_20", num_classes=10))
    model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer("sgd", model, 5e-4)
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=supports_bfloat16(CPU)):
            loss = F.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def measure() -> dict[str, Any]:
    """Alternate between the two input paths, then time the step."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    images, normalise = Images(pixels, labels), Normalisation(MEAN, STD, CPU, torch.float32)
    augmentation = Augmentation(mirror=True, shift=1 / 8)
    loader: DataLoader[Any] = DataLoader(
        RandomImages(pixels, labels), BATCH, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    turns = []
    for turn in range(TURNS + 1):
        ours = training_batches(images, normalise, augmentation, BATCH, seed=0, epoch=turn)
        turns.append((epoch_seconds(ours), epoch_seconds(loader)))
    turns = turns[1:]  # the first one starts the workers
    batch, batch_labels = next(training_batches(images, normalise, augmentation, BATCH, seed=0, epoch=0))
    seen = IMAGES // BATCH * BATCH
    return {
        "our_images_per_second": [seen / own for own, _ in turns],
        "their_images_per_second": [seen / other for _, other in turns],
        "ratios": [other / own for own, other in turns],
        "share_of_step": statistics.median(own for own, _ in turns) / (seen // BATCH) / step_time(batch, batch_labels),
        "precision_of_step": "bfloat16" if supports_bfloat16(CPU) else "float32",
    }


def table(result: dict[str, Any]) -> str:
    """Return the page of the record."""
    low, middle, high = statistics.quantiles(result["ratios"], n=4)
    ours, theirs = (statistics.median(result[f"{who}_images_per_second"]) for who in ("our", "their"))
    versions, machine, share = result["versions"], result["machine"], 100 * result["share_of_step"]
    return f"""# The input path

Made by `python benchmarks/input_path.py`: crop, mirror and normalise {IMAGES:,} random 32×32 images in batches of
{BATCH}. {TURNS} alternating turns of one epoch each, on {machine["cpu"]}, {machine["cores"]} cores;
torch {versions["torch"]}, torchvision {versions["torchvision"]}.

| | median | quartiles |
|---|---:|---:|
| images/s of cifarblocks | {ours:,.0f} | |
| images/s of a torchvision data set and transforms in a DataLoader with 2 workers | {theirs:,.0f} | |
| ratio in a turn | {middle:.1f}× | {low:.1f} to {high:.1f} |
| a batch as a share of a training step (accelerated `resnet_20`, {result["precision_of_step"]}) | {share:.2f} % | |
"""


if __name__ == "__main__":
    measure_all("input_path", __doc__, measure, table)
