"""Put weights of finished runs into the package, and measure their accuracy in float16.

    python benchmarks/pretrained.py runs/MODEL/NAME... --data DATA [--data-dir PATH]

last.safetensors of runs/MODEL/NAME becomes the folder src/cifarblocks/pretrained/MODEL.NAME. It contains
model.safetensors with its card, README.md with the same in words, and test_vector.safetensors with one image and its
logits. Weights of convolutions and linear layers are stored in float16, everything else unchanged. The weights of the
run and the stored ones are scored on the test images of --data, in float32 and in bfloat16. Takes a minute per network.
Writes benchmarks/results/pretrained.json, pretrained.md and accuracy.md.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import accuracy
import torch
from measuring import RESULTS, described, markdown, read_record, read_result, surroundings, write
from safetensors.torch import save
from torch import Tensor, nn

import cifarblocks
from cifarblocks.checkpoints.cards import page, with_result
from cifarblocks.checkpoints.own import Card
from cifarblocks.checkpoints.trained import Trained
from cifarblocks.pretrained import FILE, FOLDER, TEST_VECTOR
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.data.batches import Normalisation, evaluation_batches
from cifarblocks.training.data.datasets import DataSet
from cifarblocks.training.evaluation import evaluate
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.run_folder.weights import load_data_for, save_weights
from cifarblocks.training.stopping import exit_status

HALVED = (nn.Conv1d, nn.Conv2d, nn.Linear)
LICENCE = "MIT"
LIMITS = {
    "CIFAR-10 (JPEG copies)": "Trained and tested on JPEG copies of CIFAR-10: the accuracy on the original files was "
    "not measured. For photos of 32×32 pixels of these ten classes, and to start from; not for decisions about people.",
    "digits (UCI, 8x8)": "For scanned digits of 8×8 pixels as in the UCI data set, to try things on; it was not "
    "measured on other handwriting.",
}
COLUMNS = (
    "weights",
    "test images",
    "top-1 of the run",
    "float32",
    "float32, stored",
    "bfloat16",
    "bfloat16, stored",
    "size",
    "measured on",
)


def halved(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with the weights of convolutions and linear layers in float16."""
    layers = [name for name, module in model.named_modules() if isinstance(module, HALVED)]
    weights = {f"{name}.weight" for name in layers}
    return {name: value.half() if name in weights else value for name, value in model.state_dict().items()}


def full_card(card: Card, summary: dict[str, Any]) -> Card:
    """Return the card of a run's weights with its result, licence and limits."""
    return replace(with_result(card, summary), licence=LICENCE, limits=LIMITS[card.data])


def test_vector(trained: Trained, data: DataSet) -> dict[str, Tensor]:
    """Return the first test image, (1, 3, h, w) uint8, and its logits in float32."""
    image = data.test.pixels[:1].permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return {"image": image, "logits": trained.model(trained.preprocess(image))}


def top1(trained: Trained, data: DataSet, dtype: torch.dtype) -> float:
    """Return the accuracy on the test images under autocast to a dtype."""
    normalise = Normalisation(trained.card.mean, trained.card.std, torch.device("cpu"), torch.float32)
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    return evaluate(trained.model, evaluation_batches(data.test, normalise), autocast=autocast).top1


def ship(run: Path, source: str, directory: Path) -> dict[str, Any]:
    """Write the folder of one run's weights and return the row of the table."""
    before = cifarblocks.load(run)
    summary = read_result(run / "summary.json", lambda found: full_card(before.card, found))
    card = full_card(before.card, summary)
    name = f"{card.model}.{run.name}"
    data = load_data_for(card, source, directory)
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    save_weights(folder / FILE, halved(before.model), card)
    after = cifarblocks.load(folder)
    write_atomically(folder / TEST_VECTOR, save(test_vector(after, data)))
    example = f'>>> cifarblocks.load("{name}").predict("photo.jpg")'
    write_atomically(folder / "README.md", page(name, card, example).encode())
    scores = {
        f"{kind}_{type_name}": top1(trained, data, dtype)
        for kind, trained in (("run", before), ("stored", after))
        for type_name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    size = {"images": summary["test_images"], "bytes": (folder / FILE).stat().st_size}
    return {"name": name, "top1": summary["test_top1"], **size, **scores, **surroundings()}


def table(record: dict[str, Any]) -> str:
    """Return the page."""
    rows = [
        [
            f"`{row['name']}`",
            f"{row['images']:,}",
            *(
                f"{row[key]:.2f} %"
                for key in ("top1", "run_float32", "stored_float32", "run_bfloat16", "stored_bfloat16")
            ),
            f"{row['bytes'] / 1e6:.2f} MB",
            described(row),
        ]
        for row in record.values()
    ]
    return f"""# Weights of the package

Made by `python benchmarks/pretrained.py`: top-1 on the test images, one run each. "stored" are the weights in the
package, with convolutions and linear layers in float16; the other columns are the weights of the run. bfloat16 is
autocast.

{markdown(COLUMNS, rows)}"""


def main() -> int:
    """Run the command line and return the exit status."""
    parser = Parser(Path(sys.argv[0]).name, __doc__, usage="RUN... --data DATA [--data-dir PATH]")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--data", required=True, help="--data of the runs: digits or folder:PATH")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="cache of decoded folders (default: data)")
    options = parser.parse_args()

    def work() -> None:
        record = read_record("pretrained") if (RESULTS / "pretrained.json").exists() else {}
        for run in options.runs:
            row = ship(run, options.data, options.data_dir)
            record = dict(sorted({**record, row["name"]: row}.items()))
            write("pretrained", record, table(record))
            accuracy.main([])
            print(f"wrote {row['name']}", flush=True)

    return exit_status(parser.prog, work, "the same command writes all")


if __name__ == "__main__":
    sys.exit(main())
