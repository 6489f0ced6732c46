"""Measure the test accuracy of trained weights: not fused, fused, and fused in bfloat16.

    python benchmarks/fused_accuracy.py --weights runs/eca_resnet_20/NAME/last.safetensors --data 'folder:PATH'

Writes benchmarks/results/fused_accuracy.json and .md. Takes a minute on CIFAR-10.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from measuring import described, surroundings, write

import cifarblocks
from cifarblocks.checkpoints.own import load_weights
from cifarblocks.training.data.batches import Normalisation, evaluation_batches
from cifarblocks.training.data.sources import SOURCES
from cifarblocks.training.errors import UserError
from cifarblocks.training.evaluation import evaluate
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.run_folder.weights import load_data_for
from cifarblocks.training.stopping import exit_status

CPU = torch.device("cpu")


def measure(weights: Path, data_name: str, data_dir: Path) -> dict[str, Any]:
    """Return top-1 in each form, and the number of images whose predicted class the fused network changes."""
    try:
        model, card = load_weights(weights)
    except ValueError as error:
        raise UserError(f"--weights {error}") from error
    data = load_data_for(card, data_name, data_dir)
    forms = {
        "float32, not fused": (model.float(), torch.float32),
        "fused, float32": (cifarblocks.fuse(model.float()), torch.float32),
        "fused, bfloat16": (cifarblocks.fuse(model.float()).bfloat16(), torch.bfloat16),
    }
    rows, first = [], None
    for name, (network, dtype) in forms.items():
        network = network.to(memory_format=torch.channels_last)
        batches = evaluation_batches(data.test, Normalisation(card.mean, card.std, CPU, dtype))
        outcomes: list[torch.Tensor] = []
        scores = evaluate(network, batches, outcomes=outcomes)
        found = torch.cat(outcomes)[:, 0]
        first = found if first is None else first
        rows.append({"form": name, "top1": scores.top1, "changed": int((found != first).sum())})
    return {
        "model": card.model,
        "epoch": card.epoch,
        "precision": card.precision,
        "data": data.name,
        "images": len(data.test),
        "rows": rows,
    }


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows = "\n".join(f"| {row['form']} | {row['top1']:.2f} % | {row['changed']} |" for row in record["rows"])
    return f"""# Accuracy of fused networks

Made by `python benchmarks/fused_accuracy.py` on the {record["images"]:,} test images of {record["data"]}.

- The weights are those of {record["model"]} after {record["epoch"]} epochs in {record["precision"]}.
- {described(record)}.

| network | test top-1 | images with another predicted class |
|---|---:|---:|
{rows}
"""


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the results, and return the exit status."""
    parser = Parser("fused_accuracy.py", __doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a file that cifarblocks train wrote")
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="as for cifarblocks train (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        record = surroundings() | measure(options.weights, options.data, options.data_dir)
        write("fused_accuracy", record, table(record))

    return exit_status("fused_accuracy.py", work, "the same command measures again")


if __name__ == "__main__":
    sys.exit(main())
