"""Use trained weights: name what is on images, or score them on a data set.

    cifarblocks predict --weights eca_resnet_20.cifar10_jpeg IMAGE...
    cifarblocks predict --weights runs/MODEL/NAME/last.safetensors IMAGE...
    cifarblocks predict --weights runs/MODEL/NAME/last.safetensors --evaluate --data cifar10
    cifarblocks predict --weights model.onnx IMAGE...

Weights are a file, a run folder, or a name that `cifarblocks list --weights` prints; or an ONNX file of `cifarblocks
export`, which ONNX Runtime runs. A .pt2 file is not read: torch.export may unpickle. They say which model they are for,
its classes, and how images are normalised. It prints a line an image: the file and its most probable classes; or the
accuracy on the test images of the data set. Takes seconds.
"""

import argparse
import math
from pathlib import Path

import torch

from cifarblocks.checkpoints.trained import Trained, load
from cifarblocks.training.device import DEVICES, find_device
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.command_line import Parser, integer, new_path
from cifarblocks.training.output import one_line


def predict(options: argparse.Namespace, trained: Trained) -> None:
    """Print the most probable classes of each image file.

    Raises:
        ValueError: If a file cannot be read.
        UserError: If the weights give numbers that are not finite.
    """
    for path in options.images:
        try:
            predictions = trained.predict(path, options.top or 3)
        except FloatingPointError as error:
            raise UserError(f"--weights {options.weights} gives numbers that are not finite for {path}") from error
        named = [f"{label} {100 * probability:.1f} %" for label, probability in predictions]
        print(one_line(f"{path}: {', '.join(named)}"), flush=True)


def score(options: argparse.Namespace, trained: Trained) -> None:
    """Print the accuracy on the test images of a data set of the same classes and size, with `cifarblocks[train]`."""
    from cifarblocks.training.data.batches import Normalisation, evaluation_batches
    from cifarblocks.training.evaluation import evaluate
    from cifarblocks.training.run_folder.weights import load_data_for

    model, card = trained.model, trained.card
    data = load_data_for(card, options.data or "digits", options.data_dir or Path("data"), options.image_size)
    parameter = next(model.parameters())
    normalise = Normalisation(card.mean, card.std, parameter.device, parameter.dtype)
    autocast = torch.autocast(parameter.device.type, torch.bfloat16, enabled=card.precision == "bfloat16")
    batches = evaluation_batches(data.test.to(parameter.device), normalise)
    scores = evaluate(model, batches, autocast=autocast)
    if not math.isfinite(scores.loss):
        raise UserError(f"--weights {options.weights} gives numbers that are not finite: the loss is {scores.loss}")
    print(f"{data.name}: {scores.accuracies()} on {scores.images:,} test images")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks predict", __doc__, usage="--weights FILE (IMAGE... | --evaluate) [options]")
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE")
    add("--weights", required=True, help="a file or folder that `cifarblocks train` wrote, or a name of the package")
    add("--top", type=integer(1), help="number of classes to print (default: 3)")
    add("--evaluate", action="store_true", help="score the weights on the test images of --data")
    add("--data", help="digits, cifar10, cifar100 or folder:PATH (default: digits)")
    add("--device", choices=DEVICES, help="(default: cuda where there is a GPU)")
    add("--data-dir", type=new_path, help="holds CIFAR and decoded folders (default: data)")
    add("--image-size", type=integer(1, 4096), help="height and width of every image of --data")
    options = parser.parse_args(arguments)
    if options.evaluate == bool(options.images):
        parser.error("give either image files or --evaluate")
    for name in ("top",) if options.evaluate else ("data", "data_dir", "image_size"):
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is {'not for' if options.evaluate else 'for'} --evaluate")
    try:
        trained = load(options.weights)
    except (ModuleNotFoundError, ValueError) as error:
        parser.error(f"--weights {error}")
    try:
        trained.model.to(find_device(options.device)).to(memory_format=torch.channels_last)
        (score if options.evaluate else predict)(options, trained)
    except ModuleNotFoundError:
        if not options.evaluate:
            raise
        parser.error("--evaluate needs more packages: pip install 'cifarblocks[train]'")
    except (UserError, ValueError) as error:
        parser.error(str(error))
    return 0
