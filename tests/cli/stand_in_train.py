"""Stands in for `cifarblocks train` where a test is about who starts, watches and stops it: quick, told what to do.

An epoch has the validation loss (log10 lr)² + 1 / epoch. After each of them it waits while there is a file OUTPUT/hold
or OUTPUT/hold-NAME. A run with `--lr 13` fails; of `--model mlp` images/s are 1,000, of others 250. To OUTPUT/events it
writes when it began and ended, and whether SIGTERM came.
"""

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "output", "name"):
        parser.add_argument(f"--{name}")
    for name in ("lr", "seed"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--no-test", action="store_true")
    options, _ = parser.parse_known_args()
    folder = Path(options.output) / options.model / options.name
    folder.mkdir(parents=True, exist_ok=True)

    def note(word: str) -> None:
        with (Path(options.output) / "events").open("a") as file:
            file.write(f"{time.monotonic()} {word} {options.name}\n")

    def stopped(*_: object) -> None:
        note("stopped")
        sys.exit(143)

    signal.signal(signal.SIGTERM, stopped)
    note("begins")
    if options.lr == 13:
        print("cifarblocks train: error: 13 is unlucky", file=sys.stderr)
        sys.exit(1)
    configuration = folder / "configuration.json"
    if not configuration.exists():
        configuration.write_text(json.dumps({"options": {"epochs": options.epochs}}))
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    for epoch in range(len(lines) + 1, options.epochs + 1):
        loss = math.log10(options.lr or 1) ** 2 + 1 / epoch
        speed = 1000 if options.model == "mlp" else 250
        lines.append({"epoch": epoch, "validation_loss": loss, "seconds": 6.0, "images_per_second": speed,
                      "validation_top1": 90.0, "train_loss": loss, "train_top1": 90.0})  # fmt: skip
        metrics.with_suffix(".new").write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics.with_suffix(".new").replace(metrics)
        while any((Path(options.output) / hold).exists() for hold in ("hold", f"hold-{options.name}")):
            time.sleep(0.01)
    note("ends")
    if not options.no_test:
        result = {"model": options.model, "data": "digits", "parameters": 5, "multiply_adds": 7, "training_images": 9,
                  "epochs": len(lines), "test_top1": 90.0 + options.seed, "validation_top1": 90.0, "seconds": 6.0,
                  "versions": {"torch": "2"}, "configuration": {"machine": {"cpu": "a", "threads": 1}}}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
