"""What vae.py and acgan.py share: their command line, their images, and the maps between pixels and networks."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cifarblocks.training.data.datasets import DIGITS, DataSet, Images, load_data
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.command_line import Parser, folder_name, integer, number
from cifarblocks.training.options.declared import add_data_options
from cifarblocks.training.run_folder.folder import open_run, releasing_locks
from cifarblocks.training.run_folder.report import configuration
from cifarblocks.training.stopping import exit_status, stop_on_signals

WIDEST = 256


def generative_parser(model: str, description: str | None, epochs: int, learning_rate: float) -> Parser:
    """The options that both scripts have; what they parse to can open a run of that `model`."""
    parser = Parser(f"{model}.py", description)
    add_data_options(parser)
    add = parser.add_argument
    add("--epochs", type=integer(1), default=epochs, help="passes over the training images (default: %(default)s)")
    add("--batch-size", type=integer(2), default=64, help="(default: %(default)s)")
    add("--lr", type=number(0), default=learning_rate, help="learning rate of Adam (default: %(default)s)")
    add("--width", type=integer(1, WIDEST), default=32,
        help="channels of the largest maps, doubled at each halving (default: %(default)s)")  # fmt: skip
    add("--pictures-every", type=integer(1), default=1,
        help="draw samples after each so many epochs, and after the last (default: %(default)s)")  # fmt: skip
    add("--seed", type=integer(0, 2**63 - 1), default=0,
        help="what initial weights, order and noise are drawn from (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("runs"), help=f"runs are written to OUTPUT/{model}/NAME (default: runs)")
    add("--name", type=folder_name, help="name of the run (default: the date and time)")
    parser.set_defaults(model=model)
    return parser


def load_pixels(options: Namespace) -> tuple[DataSet, int]:
    """The images and how many values a pixel can have: digits as scanned, 8×8 of 17 grey values, others RGB of 256.

    What fills the digits up to 32×32 for the classifiers is interpolation, which a model of pixels need not learn.

    Raises:
        UserError: if the images cannot be read, are not square or of a size that cannot be halved to a small map,
            or are fewer than a batch.
    """
    data, values = load_data(options.data, options.data_dir, options.image_size), 256
    if options.data == "digits":
        if options.image_size is not None:
            raise UserError(f"--image-size {options.image_size} is not for the digits, which are taken as scanned, 8x8")
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


def open_new_run(options: Namespace, data: DataSet, processes: Processes) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and its configuration, which is written there.

    Raises:
        UserError: if a run of that name is there, or no folder can be made.
    """
    folder = options.output / options.model / (options.name or "")
    if options.name and folder.exists():
        raise UserError(f"--name {options.name}: run {folder} is there already; choose another name")
    places = ("output", "name", "data_dir")
    chosen = {name: value for name, value in vars(options).items() if name not in places}
    record = configuration(chosen, data, processes)
    return open_run(options.output, options.model, options.name, record), record


def scanned_digits(data: DataSet) -> DataSet:
    """The digits at the size of their file, (n, 8, 8, 1), values 0 to 16."""
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
    """One epoch of whole batches in an order that depends on the key alone; what is left over waits for another."""
    order = torch.randperm(len(images), generator=random_stream(*key)).to(images.labels.device)
    for start in range(0, len(images) - batch_size + 1, batch_size):
        yield images[order[start : start + batch_size]]


def map_sizes(image_size: int) -> list[int]:
    """From the image to the smallest map: halved while it is even and above 4.

    >>> map_sizes(32), map_sizes(8), map_sizes(24)
    ([32, 16, 8, 4], [8, 4], [24, 12, 6, 3])
    """
    sizes = [image_size]
    while sizes[-1] % 2 == 0 and sizes[-1] > 4:
        sizes.append(sizes[-1] // 2)
    return sizes


def map_widths(image_size: int, width: int) -> list[int]:
    """Channels of the maps of `map_sizes`: doubled at each halving, to 256 at most.

    >>> map_widths(64, 32)
    [32, 64, 128, 256, 256]
    """
    return [min(width * 2**halvings, WIDEST) for halvings in range(len(map_sizes(image_size)))]


def run(program: str, train: Callable[[], None]) -> int:
    """Train, and say in one sentence what went wrong: the exit status, as main returns it."""
    stop_on_signals()
    return exit_status(program, releasing_locks()(train), "what was written before is whole")
