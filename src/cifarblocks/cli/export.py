"""Export trained weights to ONNX or torch.export, and check the file before it is written.

    cifarblocks export --weights eca_resnet_20.digits model.onnx
    cifarblocks export --weights runs/MODEL/NAME --input uint8 model.onnx
    cifarblocks export --weights runs/MODEL/NAME model.pt2

The input `images` is (batch, 3, h, w) in RGB, or (batch, 1, h, w) for weights of grey images. The batch may have any
size; h and w are those of the weights. Values are float32 from 0 to 1 or, with --input uint8, from 0 to 255. The
exported model normalises them. The output `logits` is (batch, classes). Everything is computed in float32, and
BatchNorm is folded into convolutions. The metadata is the card of the weights: classes, data, accuracy. In an ONNX file
it ends in a digest of the file. `cifarblocks predict --weights model.onnx` checks the digest and runs the file.

The exported model is first run on random images. Nothing is written if its logits differ from torch's. This takes
seconds.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cifarblocks.checkpoints.files import first_line
from cifarblocks.checkpoints.own import Card, load_weights, metadata_of
from cifarblocks.checkpoints.trained import Trained
from cifarblocks.fusing import fuse
from cifarblocks.pretrained import find_weights
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.errors import UserError, is_out_of_memory
from cifarblocks.training.options.command_line import WEIGHTS, Parser, new_path

IMAGES = 64  # random images that the exported model is checked on
TOLERANCE = 1e-4  # largest difference of a logit up to 1, and share of a larger one
TYPES = {"float": torch.float32, "uint8": torch.uint8}
Run = Callable[[Tensor], Tensor]


class FromPixels(nn.Module):
    """A classifier of images without normalisation, (b, c, h, w): uint8, or floating-point from 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, card: Card) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return self.model((pixels - self.mean) / self.std)


def as_onnx(program: ExportedProgram, card: Card) -> tuple[bytes, Run]:
    """Return an ONNX file and a function that runs it in ONNX Runtime."""
    import onnx

    from cifarblocks.checkpoints.onnx_files import INPUT, OUTPUT, OnnxModel, with_digest

    converted = torch.onnx.export(
        program, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=({0: "batch"},), dynamo=True, verbose=False
    )
    proto = converted.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(proto, metadata_of(card))
    data = with_digest(proto.SerializeToString())
    return data, OnnxModel(data).run


def as_pt2(program: ExportedProgram, card: Card) -> tuple[bytes, Run]:
    """Return a file of torch.export and a function that runs it, loaded back."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"card.json": json.dumps(metadata_of(card))})
    data = file.getvalue()
    return data, torch.export.load(io.BytesIO(data)).module()


FORMATS = {"onnx": as_onnx, "pt2": as_pt2}
NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "pt2": ()}


@contextmanager
def silence() -> Iterator[None]:
    """Keep warnings, log lines and progress of torch's exporters off the terminal."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export(trained: Trained, kind: str, dtype: torch.dtype) -> tuple[bytes, Run]:
    """Return the exported file of a trained classifier, and a function that runs it.

    Args:
        trained: The classifier, of float32.
        kind: One of `FORMATS`.
        dtype: Type of the images.

    Raises:
        UserError: If torch cannot export the model.
    """
    model = FromPixels(fuse(trained.model), trained.card).eval()
    images = torch.zeros(2, trained.card.channels, *trained.card.image_size, dtype=dtype)
    try:
        with silence(), torch.no_grad():
            program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # a traceback has the paths of this machine
            return FORMATS[kind](program, trained.card)
    except Exception as error:  # the exporters raise dozens of kinds
        if is_out_of_memory(error):
            raise
        name = trained.card.model
        raise UserError(f"torch {torch.__version__} cannot export {name} as {kind}: {first_line(error)}") from error


@torch.inference_mode()
def largest_difference(run: Run, trained: Trained, dtype: torch.dtype) -> tuple[float, float]:
    """Return the largest difference of a logit from torch's on random images, and its tolerance.

    The images are run in one batch, and the first image alone.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, trained.card.channels, *trained.card.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    expected = trained.model(trained.preprocess(images))
    given = images if dtype == torch.uint8 else images / 255
    found = torch.cat([run(given), run(given[:1])])
    difference = (found - torch.cat([expected, expected[:1]])).abs().max().item()
    return difference, TOLERANCE * max(1.0, expected.abs().max().item())


def export_to(path: Path, trained: Trained, kind: str, dtype: torch.dtype) -> str:
    """Export a trained classifier to a file after a check of its logits; return the report to print.

    Raises:
        UserError: If torch cannot export it, or the exported model differs.
        OSError: If the file cannot be written.
    """
    data, run = export(trained, kind, dtype)
    difference, most = largest_difference(run, trained, dtype)
    checked = f"largest difference from torch's logits on {IMAGES} random images {difference:.1e}, tolerance {most:.1e}"
    if not difference <= most:  # nan neither
        raise UserError(f"{path} is not written: {checked}")
    write_atomically(path, data)
    shape = ", ".join(map(str, ("batch", trained.card.channels, *trained.card.image_size)))
    return f"{checked}\nwrote {path}: {len(data) / 1e6:.2f} MB, images ({shape}) {str(dtype).removeprefix('torch.')}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks export", __doc__, usage="--weights FILE [options] OUTPUT")
    add = parser.add_argument
    add("output", type=new_path, metavar="OUTPUT", help="file to write, in a folder that exists")
    add("--weights", required=True, help=WEIGHTS)
    add("--format", choices=FORMATS, help="format of OUTPUT (default: by its suffix, .onnx or .pt2)")
    add("--input", choices=TYPES, default="float", help="float: 0 to 1; uint8: 0 to 255 (default: float)")
    options = parser.parse_args(arguments)
    path, suffix = options.output, options.output.suffix.removeprefix(".")
    kind = options.format or suffix
    if kind not in FORMATS or kind != suffix:
        parser.error(f"OUTPUT must end in .{options.format or 'onnx or .pt2'}, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        parser.error(f"OUTPUT must be a file in a folder that exists, got {path}")
    for package in NEEDS[kind]:
        import_module(package)  # `main` says what to install
    try:
        trained = Trained(*load_weights(find_weights(options.weights)))
    except ValueError as error:
        parser.error(f"--weights {error}")
    trained.model.float()
    try:
        print(export_to(path, trained, kind, TYPES[options.input]))
    except UserError as error:
        parser.error(str(error))
    return 0
