"""Train on CIFAR-10 in minutes on two CPU cores: network and training loop, to read from top to bottom.

    python examples/speedrun.py                                       # the digits: half a minute
    python examples/speedrun.py --data cifar10                        # downloads CIFAR-10; 7 minutes on 2 cores
    python examples/speedrun.py --data cifar10 --target 88            # about 3 minutes
    python examples/speedrun.py --data folder:PATH --final --seeds 5    # PATH/train/<class>/*, PATH/test/<class>/*

It prints one line per epoch. For each seed it prints top-1 and the seconds of training, without reading and scoring. It
also prints the number of floating-point operations, and their share of the peak rate of this machine.

Top-1 is measured on 5,000 validation images. With --final the network trains on all training images, and top-1 is
measured on the test images, once per seed. Each finished seed writes OUTPUT/seed_N.json. The same command skips the
seeds that have a file, and trains the others from the start.

On a faster machine use --target 94, the size of the record for one GPU. To add a size, add a line to `PLANS`. Accuracy
and minutes are in benchmarks/results/speedrun.md.

The parts of the recipe, in the order of the file, and the reason for each:

- The network is three groups of two 3×3 convolutions, with pooling directly after the first. So norms and activations,
  which are slow for their few operations, process a quarter of the map. The activation is ReLU, because the gradient of
  GELU takes many times as long.
- The first layer is computed, not trained. It whitens patches of 2×2 pixels: the inputs of the next are uncorrelated.
- The first filters of each convolution start as the identity, so the image reaches the last layer from the first step.
- Muon (optim/muon.py) updates the filters with orthogonal steps. SGD with Nesterov momentum updates the rest.
- Labels are smoothed. Images are mirrored every other epoch and shifted by up to 2 pixels. Learning rates fall linearly
  to 0.
- The score uses the mean logits of an image, its mirror image, and both shifted by a pixel.

From KellerJordan/cifar10-airbench (MIT), whose record for one GPU reaches 94 % of CIFAR-10 with 0.29 PFLOP, and
https://arxiv.org/abs/2404.00498.
"""

import copy
import json
import math
import shlex
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cifarblocks
from cifarblocks.training.data.batches import (
    Augmentation,
    Batch,
    Normalisation,
    evaluation_batches,
    training_batches,
)
from cifarblocks.training.data.datasets import DataSet, Images, hold_out, load_data
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.hardware import machine, supports_bfloat16, versions
from cifarblocks.training.optim.muon import Muon
from cifarblocks.training.options.command_line import Parser, integer
from cifarblocks.training.options.declared import add_data_options
from cifarblocks.training.run_folder.folder import read_json, write_json
from cifarblocks.training.stopping import exit_status

CPU = torch.device("cpu")
SIZE = 32  # of the images
BATCH_SIZE = 500
SHIFT = 2 / SIZE
LABEL_SMOOTHING = 0.2
# Peak learning rates. Muon's is relative to the size of the weights. The others are for the loss summed over a batch,
# so they do not depend on the batch size.
FILTER_RATE, BIAS_RATE, HEAD_RATE = 0.12, 0.053, 0.67
DECAY = 2e-6  # of biases and the last layer, for each image of a batch


class Plan(NamedTuple):
    """Channels of the three groups, and number of epochs."""

    widths: tuple[int, int, int]
    epochs: int


# By --target: an accuracy in percent, or minutes on two cores with AVX512-BF16.
PLANS = {
    "88": Plan((32, 128, 128), 6),
    "7min": Plan((32, 128, 128), 14),
    "94": Plan((64, 256, 256), 8),
}


class ConvGroup(nn.Module):
    """Convolution, pooling, convolution: (b, in_channels, h, w) → (b, out_channels, ⌊h / 2⌋, ⌊w / 2⌋).

    Pooling comes first, so that the slow norm and activation process a quarter of the map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(in_channels, out_channels), norm(out_channels)
        self.conv2, self.norm2 = convolution(out_channels, out_channels), norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return torch.relu_(self.norm2(self.conv2(x)))


def convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build a 3×3 convolution whose first filters copy one input channel each."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:in_channels].data)
    return conv


def norm(channels: int) -> nn.BatchNorm2d:
    """Build a BatchNorm without learned scales, with running statistics of the last few batches, as runs are short."""
    layer = nn.BatchNorm2d(channels, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


class SpeedNet(nn.Module):
    """Network of a whitening layer, three groups, a global maximum pool and a linear layer.

    Shape: (b, 3, h, w) → (b, num_classes), h and w of at least 9.
    """

    whitening: Tensor

    def __init__(self, whitening: Tensor, widths: Iterable[int], num_classes: int) -> None:
        super().__init__()
        # Each filter and its negative, so that no information is lost in the ReLU.
        self.register_buffer("whitening", torch.cat([whitening, -whitening]))
        channels, groups = 2 * len(whitening), []
        for width in widths:
            groups.append(ConvGroup(channels, width))
            channels = width
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(channels, num_classes, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(torch.relu_(F.conv2d(x, self.whitening)))
        return self.head(x.amax((2, 3))) / x.shape[1]


def whitening_filters(images: Tensor, kernel_size: int = 2, eps: float = 5e-4) -> Tensor:
    """Return filters that whiten the patches of images: uncorrelated, with variance 1 unless it is below `eps`.

    Args:
        images: (n, c, h, w), normalised, a random sample.
        kernel_size: height and width of a patch.
        eps: added to the variances, so that noise is not amplified.

    Shape: → (c·k·k, c, k, k)
    """
    c, k = images.shape[1], kernel_size
    patches = F.unfold(images, k).transpose(1, 2).reshape(-1, c * k * k).double()
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    return (directions / (variances + eps).sqrt()).T.reshape(-1, c, k, k).float()


def build(data: DataSet, training: Images, normalise: Normalisation, plan: Plan, seed: int) -> SpeedNet:
    """Build the network, with a whitening layer for a random sample of the images (a folder sorts them by class)."""
    torch.manual_seed(seed)
    drawn = torch.randperm(len(training), generator=random_stream("whitening", seed))[:5000]
    network = SpeedNet(whitening_filters(normalise(training.pixels[drawn])), plan.widths, len(data.classes))
    return cifarblocks.accelerate(network.to(memory_format=torch.channels_last))


def batch_size_for(images: int) -> int:
    """Return the batch size: 500, or a tenth of the images of a small set."""
    return min(BATCH_SIZE, images // 10)


def build_optimizer(network: SpeedNet, batch_size: int) -> Muon:
    """Build Muon for filters, and SGD with Nesterov momentum for the biases of the norms and the last layer."""
    parameters = [parameter for parameter in network.groups.parameters() if parameter.requires_grad]
    decay, others = DECAY * batch_size, {"orthogonal": False, "momentum": 0.85}
    groups = [
        {"params": [p for p in parameters if p.ndim == 4], "lr": FILTER_RATE, "momentum": 0.6},
        {
            "params": [p for p in parameters if p.ndim == 1],
            "lr": BIAS_RATE,
            "weight_decay": decay / BIAS_RATE,
            **others,
        },
        {"params": [network.head.weight], "lr": HEAD_RATE, "weight_decay": decay / HEAD_RATE, **others},
    ]
    return Muon([{**group, "peak": group["lr"]} for group in groups], lr=FILTER_RATE)


def train(network: SpeedNet, training: Images, normalise: Normalisation, plan: Plan, seed: int, mirror: bool) -> None:
    """Train all epochs, with learning rates that fall linearly to 0."""
    batch_size, augmentation = batch_size_for(len(training)), Augmentation(mirror, SHIFT)
    steps, epochs = len(training) // batch_size, plan.epochs
    optimizer = build_optimizer(network, batch_size)
    network.train()
    for epoch in range(epochs):
        began = time.perf_counter()
        batches = training_batches(training, normalise, augmentation, batch_size, seed, epoch)
        rates = [1 - (epoch * steps + step) / (epochs * steps) for step in range(steps)]
        loss = train_epoch(network, zip(batches, rates, strict=True), optimizer)
        if not math.isfinite(loss):
            raise RunError(f"seed {seed}: the loss is {loss} in epoch {epoch + 1}")
        print(f"  epoch {epoch + 1}/{epochs}  loss {loss:.3f}  {time.perf_counter() - began:.0f} s", flush=True)


def train_epoch(network: SpeedNet, batches: Iterable[tuple[Batch, float]], optimizer: Muon) -> float:
    """Take a step for each batch and its share of the peak learning rates; return the mean loss."""
    losses, half = [], autocast()
    for (pixels, labels), rate in batches:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        with half:
            logits = network(pixels)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING, reduction="sum")
        loss.backward()
        with half:
            optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / len(labels))
    return statistics.mean(losses)


@torch.inference_mode()
def top1(network: SpeedNet, images: Images, normalise: Normalisation, mirror: bool) -> float:
    """Return top-1 in percent, from the mean logits of each image, its mirror image, and both shifted by a pixel."""
    network.eval()
    hits, half = 0, autocast()
    for pixels, labels in evaluation_batches(images, normalise):
        with half:
            logits = sum(weight * network(view).float() for weight, view in views(pixels, mirror))
        hits += int((logits.argmax(1) == labels).sum())
    return 100 * hits / len(images)


def views(pixels: Tensor, mirror: bool) -> Iterator[tuple[float, Tensor]]:
    """Yield an image, two copies shifted along the diagonal by one pixel, and the mirror images of all three."""
    padded = F.pad(pixels, (1, 1, 1, 1), "reflect")
    for weight, place in ((0.5, 1), (0.25, 0), (0.25, 2)):
        view = padded[:, :, place : place + SIZE, place : place + SIZE].contiguous(memory_format=torch.channels_last)
        yield weight, view
        if mirror:
            yield weight, view.flip(3)


def count_flops(network: SpeedNet, plan: Plan, images: int) -> float:
    """Return the floating-point operations of the whole training; a multiply-add is two.

    Only convolutions and matrix products count. Torch counts them in one step of two images.
    """
    twin, batch_size = copy.deepcopy(network).train(), batch_size_for(images)
    optimizer = build_optimizer(twin, batch_size)
    with FlopCounterMode(display=False) as of_two_images:
        twin(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    with FlopCounterMode(display=False) as of_the_optimizer:
        optimizer.step()
    per_step = of_two_images.get_total_flops() / 2 * batch_size + of_the_optimizer.get_total_flops()
    return plan.epochs * (images // batch_size) * per_step


def peak_rate(repetitions: int = 10) -> float:
    """Return the peak rate of this machine: a 3×3 convolution with its gradients, as in benchmarks/peak.py."""
    b, c, size, dtype = 128, 64, 32, torch.bfloat16 if supports_bfloat16(CPU) else torch.float32
    conv = nn.Conv2d(c, c, 3, padding=1, bias=False).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(b, c, size, size).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    ones, seconds = torch.ones_like(conv(x)), []
    for _ in range(repetitions):
        began = time.perf_counter()
        torch.autograd.grad(conv(x), (x, conv.weight), ones)
        seconds.append(time.perf_counter() - began)
    return 3 * 2 * b * size**2 * c**2 * 9 / min(seconds)


def autocast() -> torch.autocast:
    """Return autocast to bfloat16 if the processor has it, which is at least twice as fast."""
    return torch.autocast("cpu", torch.bfloat16, enabled=supports_bfloat16(CPU))


def run(seed: int, options: Namespace, data: DataSet) -> dict[str, Any]:
    """Train one seed, and return its result."""
    plan = PLANS[options.target]
    training, scored = (data.train, data.test) if options.final else hold_out(data.train, random_stream("hold out"))
    normalise = Normalisation(*data.mean_and_std, CPU, torch.float32)
    peak, began = peak_rate(), time.perf_counter()
    network = build(data, training, normalise, plan, seed)
    train(network, training, normalise, plan, seed, data.mirror)
    seconds = time.perf_counter() - began
    flops = count_flops(network, plan, len(training))
    return {
        "seed": seed,
        "top1": round(top1(network, scored, normalise, data.mirror), 4),
        "images": ("test" if options.final else "validation", len(scored)),
        "seconds": round(seconds, 1),
        "flops": flops,
        "peak_flops_per_second": peak,
        "share_of_peak": round(flops / seconds / peak, 4),
        "training_images": len(training),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def chosen(options: Namespace, data: DataSet) -> dict[str, Any]:
    """Return the options and the data that determine the result of a seed."""
    return {
        "target": options.target,
        "plan": json.loads(json.dumps(PLANS[options.target]._asdict())),
        "final": options.final,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "precision": "bfloat16" if supports_bfloat16(CPU) else "float32",
    }


def check(options: Namespace, data: DataSet) -> None:
    """Refuse images that are not 32×32, and too few images."""
    if data.image_size != (SIZE, SIZE):
        height, width = data.image_size
        raise UserError(
            f"--data {options.data} has images of {height}x{width}, not 32x32; pass --image-size 32 for a folder"
        )
    if len(data.train) < 100:
        raise UserError(f"--data {options.data} has {len(data.train)} training images; speedrun.py needs at least 100")


def run_all(options: Namespace) -> None:
    """Train each seed without a file, and print the mean of all seeds."""
    data = load_data(options.data, options.data_dir, options.image_size)
    check(options, data)
    choice, results = chosen(options, data), []
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {options.output}: {error.strerror}") from error
    for seed in range(options.seeds):
        path = options.output / f"seed_{seed}.json"
        if not path.exists():
            print(f"seed {seed}", flush=True)
            command = shlex.join(["python", *sys.argv])
            made = {"options": choice, "machine": machine(CPU), "versions": versions(), "command": command}
            write_json(path, run(seed, options, data) | made)
        result = read_json(path)
        if result["options"] != choice:
            raise UserError(f"--output {options.output}: {path} is of other options or data; choose another folder")
        print(describe(result), flush=True)
        results.append(result["top1"])
    if len(results) > 1:
        spread = f"standard deviation {statistics.stdev(results):.2f}, {len(results)} seeds"
        print(f"mean {statistics.mean(results):.2f} %, {spread}")


def describe(result: dict[str, Any]) -> str:
    """Return the result of a seed as a line."""
    kind, number = result["images"]
    return (
        f"seed {result['seed']}: top-1 {result['top1']:.2f} % of {number:,} {kind} images, {result['seconds']:.0f} s, "
        f"{result['flops'] / 1e15:.4f} PFLOP, {100 * result['share_of_peak']:.0f} % of the peak "
        f"{result['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    )


def parse(arguments: list[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = Parser("speedrun.py", __doc__)
    add_data_options(parser)
    add = parser.add_argument
    targets = "88: about 3 minutes on two cores; 7min: 7 minutes; 94: size of the record for one GPU"
    add("--target", choices=PLANS, default="7min", help=f"{targets} (default: %(default)s)")
    add("--seeds", type=integer(1), default=1, help="number of seeds 0, 1, ... to train (default: %(default)s)")
    add("--final", action="store_true", help="train on all training images and score on the test images")
    add("--output", type=Path, default=Path("runs/speedrun"), help="folder for seed_N.json (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.image_size not in (None, SIZE):
        parser.error(f"--image-size must be {SIZE}, got {options.image_size}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    options = parse(arguments)
    return exit_status(
        "speedrun.py", lambda: run_all(options), "the same command continues after the last finished seed"
    )


if __name__ == "__main__":
    sys.exit(main())
