"""Use trained weights: name what is on images, or score them on a data set.

    cifarblocks predict --weights runs/MODEL/NAME/last.safetensors IMAGE...
    cifarblocks predict --weights runs/MODEL/NAME/last.safetensors --evaluate --data cifar10

The weights file alone says which model it is for, its classes, and how images are normalised. It prints a line an
image: the file and its most probable classes; or the accuracy on the test images of the data set. Takes seconds.
"""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cifarblocks.training.data.batches import Normalisation, evaluation_batches
from cifarblocks.training.data.folders import read_image, resize
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.evaluation import evaluate
from cifarblocks.training.options.command_line import Parser, integer
from cifarblocks.training.options.declared import add_data_options
from cifarblocks.training.run_folder.weights import Card, load_data_for, load_weights


def predict(paths: list[Path], top: int, model: nn.Module, card: Card, normalise: Normalisation) -> None:
    """Print the most probable classes of each image file, which is made RGB and resized as the model needs."""
    for path in paths:
        image = resize(read_image(path).convert("RGB"), card.image_size)
        pixels = torch.from_numpy(np.array(image)).unsqueeze(0).to(normalise.scale.device)
        with torch.inference_mode():
            probabilities = model(normalise(pixels)).softmax(1)[0]
        best = probabilities.topk(min(top, len(card.classes)))
        named = [f"{card.classes[i]} {100 * p:.1f} %" for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
        print(f"{path}: {', '.join(named)}")


def score(options: Namespace, model: nn.Module, card: Card, normalise: Normalisation) -> None:
    """Print the accuracy on the test images of a data set of the same classes and size."""
    data = load_data_for(card, options.data, options.data_dir, options.image_size)
    device = normalise.scale.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=card.precision == "bfloat16")
    batches = evaluation_batches(data.test.to(device), normalise)
    scores = evaluate(model, batches, Processes(0, 1, device), autocast)
    print(f"{data.name}: top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images:,} test images")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks predict", __doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--weights", type=Path, required=True, help="a file that cifarblocks train wrote")
    parser.add_argument("--top", type=integer(1), default=3, help="how many classes to print (default: %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="score the weights on the test images of --data")
    add_data_options(parser)
    options = parser.parse_args(arguments)
    if options.evaluate == bool(options.images):
        parser.error("give either image files or --evaluate")
    for name in ("top",) if options.evaluate else ("data", "data_dir", "image_size"):
        if getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is {'not for' if options.evaluate else 'for'} --evaluate")
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, card = load_weights(options.weights)
        model = model.to(device).to(memory_format=torch.channels_last)
        normalise = Normalisation(card.mean, card.std, device, next(model.parameters()).dtype)
        if options.evaluate:
            score(options, model, card, normalise)
        else:
            predict(options.images, options.top, model, card, normalise)
    except UserError as error:
        print(f"cifarblocks predict: error: {error}", file=sys.stderr)
        return 2
    return 0
