"""Parts that vae.py and acgan.py share: command line, images, layers, and a run from first epoch to summary."""

import json
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cifarblocks.blocks import BasicBlock
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.data.datasets import DIGITS, DataSet, Images, load_data
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.options.command_line import Parser, folder_name, integer, number
from cifarblocks.training.options.declared import add_data_options
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.report import configuration
from cifarblocks.training.stopping import exit_status

WIDEST = 256


def generative_parser(model: str, description: str | None, epochs: int, learning_rate: float) -> Parser:
    """Return a parser of the options of both scripts, for runs of `model`."""
    parser = Parser(f"{model}.py", description)
    add_data_options(parser)
    add = parser.add_argument
    add("--epochs", type=integer(1), default=epochs, help="passes over the training images (default: %(default)s)")
    add("--batch-size", type=integer(2), default=64, help="(default: %(default)s)")
    add("--lr", type=number(0, 1e30), default=learning_rate, help="learning rate of Adam (default: %(default)s)")
    add("--width", type=integer(1, WIDEST), default=32,
        help="channels of the largest maps, doubled at each halving (default: %(default)s)")  # fmt: skip
    add("--pictures-every", type=integer(1), default=1,
        help="epochs between pictures of samples; the last epoch also has one (default: %(default)s)")  # fmt: skip
    add("--seed", type=integer(0, 2**63 - 1), default=0,
        help="seed of initial weights, order and noise (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("runs"), help=f"runs are written to OUTPUT/{model}/NAME (default: runs)")
    add("--name", type=folder_name, help="name of the run (default: the date and time)")
    parser.set_defaults(model=model)
    return parser


def load_pixels(options: Namespace) -> tuple[DataSet, int]:
    """Read images, and the number of values of a pixel: 17 for the digits, 256 for others.

    Digits have their scanned size, 8×8. The interpolated 32×32 of classifiers would only make the task harder.

    Raises:
        UserError: if the images cannot be read, are not square or of a size that cannot be halved to a small map,
            or are fewer than a batch.
    """
    data, values = load_data(options.data, options.data_dir, options.image_size), 256
    if options.data == "digits":
        if options.image_size is not None:
            raise UserError(f"--image-size {options.image_size} has no effect on the digits, which are scanned at 8x8")
        data, values = scanned_digits(data), 17
    height, width = data.image_size
    if height != width or height % 4 or height < 8:
        raise UserError(
            f"--data {options.data} has images of {height}x{width}; they must be square, of a multiple of 4 pixels and "
            f"at least 8 (--image-size N resizes them)"
        )
    if options.batch_size > len(data.train):
        raise UserError(f"--batch-size {options.batch_size} is more than the {len(data.train)} training images")
    return data, values


def open_new_run(options: Namespace, data: DataSet, device: torch.device) -> tuple[Path, dict[str, Any]]:
    """Make the folder of a run, and return it with the configuration that is written there.

    Raises:
        UserError: If a run of that name is there, or no folder can be made.
    """
    folder = options.output / options.model / (options.name or "")
    if options.name and folder.exists():
        raise UserError(f"--name {options.name}: run {folder} already exists; give another name")
    chosen = {name: value for name, value in vars(options).items() if name not in ("output", "name", "data_dir")}
    record = configuration(chosen, data, Processes(0, 1, device))
    folder = runs.make_run_folder(options.output, options.model, options.name)
    runs.write_json(folder / runs.CONFIGURATION, record)
    return folder, record


class Lesson(NamedTuple):
    """A model of a script, with the functions that train, draw and measure it."""

    title: str
    parameters: dict[str, int]  # their numbers of parameters, for summary.json
    train_epoch: Callable[[int], Iterator[Tensor]]  # takes the steps of an epoch and yields the losses of each
    losses: Sequence[str]  # the names of the losses
    line: str  # the text of an epoch, a format of these names and of their total
    draw_samples: Callable[[Path, int], None]  # called with the file and the epoch
    weights: str  # the name of their file
    model: nn.Module
    arguments: dict[str, int]  # of its class
    measure: Callable[[Path], dict[str, Any]]  # called with the folder; returns what summary.json has of the result
    describe: Callable[[dict[str, Any]], str]  # the same, human-readable


Build = Callable[[Namespace, DataSet, int, torch.device], Lesson]


def train(options: Namespace, build: Build) -> None:
    """Train for some epochs, save the weights, measure them, and write the results.

    Args:
        options: The command line.
        build: Called as build(options, data, values, device), `values` the number of values a pixel can have.

    Raises:
        UserError: If the options cannot work with the images.
        RunError: If a loss is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, values = load_pixels(options)
    lesson = build(options, data, values, device)
    folder, record = open_new_run(options, data, device)
    size, _, channels = data.train.pixels.shape[1:]
    images = f"{len(data.train):,} training and {len(data.test):,} test images of {size}x{size}x{channels}"
    print(f"{lesson.title}\n{data.name}: {images}", flush=True)
    history: list[dict[str, Any]] = []
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        means = torch.stack(list(lesson.train_epoch(epoch - 1))).double().mean(0).tolist()
        if not math.isfinite(total := sum(means)):
            raise RunError(f"the loss is {total} in epoch {epoch}; try a smaller --lr than {options.lr:g}")
        losses = dict(zip(lesson.losses, means, strict=True))
        history.append({"epoch": epoch, **losses, "seconds": round(time.perf_counter() - began, 3)})
        print(f"epoch {epoch}/{options.epochs}  {lesson.line.format(total=total, **losses)}", flush=True)
        runs.write_metrics(folder, history)
        if epoch % options.pictures_every == 0 or epoch == options.epochs:
            lesson.draw_samples(folder / f"samples_{epoch:04}.png", epoch)

    tensors = {name: tensor.cpu().contiguous() for name, tensor in lesson.model.state_dict().items()}
    weights = save(tensors, metadata={"arguments": json.dumps(lesson.arguments)})
    write_atomically(folder / f"{lesson.weights}.safetensors", weights)
    result = lesson.measure(folder)
    summary = {
        "model": options.model,
        **lesson.parameters,
        "data": data.name,
        "epochs": len(history),
        "training_images": len(data.train),
        **result,
        "seconds": round(sum(line["seconds"] for line in history), 1),
        "seed": options.seed,
        "versions": record["versions"],
        "configuration": record,
    }
    runs.write_json(folder / runs.SUMMARY, summary)
    print(lesson.describe(result), "wrote", *(f"  {path}" for path in sorted(folder.iterdir())), sep="\n", flush=True)


def scanned_digits(data: DataSet) -> DataSet:
    """Return the digits at their scanned size, (n, 8, 8, 1), values 0 to 16."""
    tensors = load_file(DIGITS)
    train, test = (
        Images(tensors[f"{part}_images"].unsqueeze(3), tensors[f"{part}_labels"]) for part in ("train", "test")
    )
    return DataSet(data.name, train, test, data.classes, data.mirror)


def to_numbers(pixels: Tensor, values: int) -> Tensor:
    """(b, h, w, c) uint8 from 0 to values - 1 → (b, c, h, w) float from -1 to 1."""
    return (pixels.float() * (2 / (values - 1)) - 1).permute(0, 3, 1, 2)


def to_pixels(numbers: Tensor, values: int) -> Tensor:
    """(b, c, h, w) float → (b, h, w, c) uint8, the nearest pixel values."""
    levels = ((numbers + 1) * ((values - 1) / 2)).round().clamp(0, values - 1)
    return levels.to(torch.uint8).permute(0, 2, 3, 1)


def shuffled_batches(images: Images, batch_size: int, *key: object) -> Iterator[Images]:
    """Yield one epoch of whole batches, in an order that depends only on the key; other epochs have the rest."""
    order = torch.randperm(len(images), generator=random_stream(*key)).to(images.labels.device)
    for start in range(0, len(images) - batch_size + 1, batch_size):
        yield images[order[start : start + batch_size]]


def map_sizes(image_size: int) -> list[int]:
    """Return the sizes from the image to the smallest map, halved while even and above 4.

    >>> map_sizes(32), map_sizes(8), map_sizes(24)
    ([32, 16, 8, 4], [8, 4], [24, 12, 6, 3])
    """
    sizes = [image_size]
    while sizes[-1] % 2 == 0 and sizes[-1] > 4:
        sizes.append(sizes[-1] // 2)
    return sizes


def map_widths(image_size: int, width: int) -> list[int]:
    """Return the channels of the maps of `map_sizes`, doubled at each halving, at most 256.

    >>> map_widths(64, 32)
    [32, 64, 128, 256, 256]
    """
    return [min(width * 2**halvings, WIDEST) for halvings in range(len(map_sizes(image_size)))]


def decoder_layers(inputs: int, channels: int, size: int, width: int) -> list[nn.Module]:
    """Return the layers from (b, inputs) to (b, channels, size, size), a block after each doubling of the map."""
    widths, smallest = map_widths(size, width)[::-1], map_sizes(size)[-1]
    blocks: list[nn.Module] = []
    for before, after in pairwise(widths):
        blocks += [nn.Upsample(scale_factor=2), BasicBlock(before, after)]
    return [
        nn.Linear(inputs, widths[0] * smallest**2),
        nn.Unflatten(1, (widths[0], smallest, smallest)),
        BasicBlock(widths[0], widths[0]),
        *blocks,
        nn.Conv2d(width, channels, 3, padding=1),
    ]


def run(parser: Parser, arguments: list[str] | None, build: Build) -> int:
    """Train, print an error in one sentence, and return the exit status."""
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: train(options, build), "files written before are complete")
