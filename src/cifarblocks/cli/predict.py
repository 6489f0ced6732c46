"""Predict the classes of images with trained weights, or score the weights on a data set.

    cifarblocks predict --weights eca_resnet_20.cifar10_jpeg IMAGE...
    cifarblocks predict --weights runs/MODEL/NAME photos another.jpg
    cifarblocks predict --weights runs/MODEL/NAME --json photos > predictions.jsonl
    cifarblocks predict --weights runs/MODEL/NAME --evaluate --data cifar10
    cifarblocks predict --weights model.onnx IMAGE...

Weights are a file, a run folder, or a name that `cifarblocks list --weights` prints. An ONNX file of `cifarblocks
export` works too, with ONNX Runtime. A .pt2 file is not read: torch.export may unpickle. The weights name their model,
its classes and the normalisation of the images. A folder stands for the images in it or, if it has none, for the images
in its subfolders.

It prints one line per image, the file and its most probable classes, or the accuracy on the test images of a data set.
An image that cannot be read is named on stderr. The other images are predicted, and the exit status is 1.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cifarblocks.checkpoints.trained import BATCH, Prediction, Trained, import_images, load
from cifarblocks.training.data.batches import Normalisation, evaluation_batches
from cifarblocks.training.data.sources import SOURCES
from cifarblocks.training.device import DEVICES, find_device
from cifarblocks.training.errors import UserError
from cifarblocks.training.evaluation import evaluate
from cifarblocks.training.options.command_line import WEIGHTS, Parser, integer, new_path
from cifarblocks.training.output import one_line, tell
from cifarblocks.training.run_folder.weights import load_data_for


def predict(options: argparse.Namespace, trained: Trained) -> int:
    """Print the most probable classes of each image; the exit status: 1 if one could not be read.

    Raises:
        UserError: If there are no images, or the weights give numbers that are not finite.
    """
    images = import_images()
    paths = [path for given in options.images for path in images.list_images(given)]
    if all(map(os.path.isdir, paths)):
        raise UserError(f"{paths[0]} and the folders in it have no images: files named {', '.join(images.SUFFIXES)}")
    status = 0
    try:
        for path, outcome in outcomes(paths, trained, options.top or 3):
            if isinstance(outcome, str):
                tell("cifarblocks predict", outcome, once=False)
                status = 1
            if options.json:
                print(as_json(path, outcome), flush=True)
            elif not isinstance(outcome, str):
                named = [f"{label} {100 * probability:.1f} %" for label, probability in outcome]
                print(one_line(f"{path}: {', '.join(named)}"), flush=True)
    except FloatingPointError as error:
        raise UserError(f"--weights {options.weights} gives {error}") from error
    return status


def outcomes(paths: list[Path], trained: Trained, top: int) -> Iterator[tuple[Path, list[Prediction] | str]]:
    """Yield each image with its most probable classes or, if it cannot be read, with the reason.

    Raises:
        FloatingPointError: If a logit is not finite; it names the first image of the batch.
    """
    images = import_images()

    def read(path: Path) -> Any:
        try:
            return images.resize_rgb(images.read_image(path), trained.card.image_size)  # small, as 256 are kept
        except ValueError as error:
            return str(error)

    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        found = [read(path) for path in batch]
        usable = [(path, image) for path, image in zip(batch, found, strict=True) if not isinstance(image, str)]
        try:
            predictions = iter(trained.predict([image for _, image in usable], top) if usable else [])
        except FloatingPointError as error:
            others = f" or one of the {len(usable) - 1} images after it" if len(usable) > 1 else ""
            raise FloatingPointError(f"numbers that are not finite for {usable[0][0]}{others}") from error
        for path, image in zip(batch, found, strict=True):
            yield path, image if isinstance(image, str) else next(predictions)


def as_json(path: Path, outcome: list[Prediction] | str) -> str:
    """Return the outcome of an image as a line of JSON."""
    if isinstance(outcome, str):
        return json.dumps({"image": str(path), "error": outcome})
    return json.dumps({"image": str(path), "predictions": [prediction._asdict() for prediction in outcome]})


def score(options: argparse.Namespace, trained: Trained) -> int:
    """Print the accuracy on the test images of a data set of the same classes and size.

    Raises:
        UserError: If the data cannot be used, or the weights give numbers that are not finite.
    """
    model, card = trained.model, trained.card
    if options.data is None and not card.data.startswith("digits"):
        raise UserError(f"--evaluate needs --data: the weights were trained on {card.data}, not on the digits")
    data = load_data_for(card, options.data or "digits", options.data_dir or Path("data"), options.image_size)
    parameter = next(model.parameters())
    normalise = Normalisation(card.mean, card.std, parameter.device, parameter.dtype)
    autocast = torch.autocast(parameter.device.type, torch.bfloat16, enabled=card.precision == "bfloat16")
    batches = evaluation_batches(data.test.to(parameter.device), normalise)
    scores = evaluate(model, batches, autocast=autocast)
    if not math.isfinite(scores.loss):
        raise UserError(f"--weights {options.weights} gives numbers that are not finite: the loss is {scores.loss}")
    other = "" if card.data == data.name else f"; the weights were trained on {card.data}"
    print(one_line(f"{data.name}: {scores.accuracies()} on {scores.images:,} test images{other}"))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 1 if an image cannot be read, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks predict", __doc__, usage="--weights FILE (IMAGE... | --evaluate) [options]")
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="an image file, or a folder of them")
    add("--weights", required=True, help=WEIGHTS)
    add("--top", type=integer(1), help="number of classes to print (default: 3)")
    add(
        "--json",
        action="store_true",
        default=None,
        help="print one JSON object per image, with its error if any",
    )
    add("--evaluate", action="store_true", help="score the weights on the test images of --data")
    add("--data", help=f"{SOURCES} (default: digits)")
    add("--device", choices=DEVICES, help="device (default: cuda if there is a GPU)")
    add("--data-dir", type=new_path, help="folder for downloads and decoded images (default: data)")
    add("--image-size", type=integer(1, 4096), help="height and width of every image of --data")
    options = parser.parse_args(arguments)
    if options.evaluate == bool(options.images):
        parser.error("give either image files or --evaluate")
    for name in ("top", "json") if options.evaluate else ("data", "data_dir", "image_size"):
        if getattr(options, name) is not None:
            verb = "has no effect with" if options.evaluate else "needs"
            parser.error(f"--{name.replace('_', '-')} {verb} --evaluate")
    try:
        trained = load(options.weights)
    except (ModuleNotFoundError, ValueError) as error:
        parser.error(f"--weights {error}")
    try:
        trained.model.to(find_device(options.device)).to(memory_format=torch.channels_last)
        return (score if options.evaluate else predict)(options, trained)
    except (UserError, ValueError) as error:
        parser.error(str(error))
