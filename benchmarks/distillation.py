"""Compare runs of cifarblocks train with and without a teacher, and write the table.

    cifarblocks train --data cifar10 --model resnet_20 --epochs 30 --seed 0 --name plain_0
    cifarblocks train --data cifar10 --model resnet_20 --epochs 30 --seed 0 --name taught_0 --teacher TEACHER
    python benchmarks/distillation.py runs/resnet_20/plain_? runs/resnet_20/taught_? runs/resnet_56/teacher

Each run with a teacher needs a run without one, of the same options and seed. With several seeds the table has means
and standard deviations. Pass the teacher's own run too, and the table has its accuracy. Writes the summary.json of each
run to benchmarks/results/distillation.json, and the table to distillation.md. Takes a few seconds.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from measuring import collect, markdown, read_result, write

from cifarblocks.checkpoints.files import file_digest
from cifarblocks.training.compare.table import percent
from cifarblocks.training.errors import UserError

HEAD = """# Distillation

Made by `python benchmarks/distillation.py` from the `summary.json` of each run. [distillation.json](distillation.json)
has all of them.

- Top-1 is that of the weights of the last epoch: mean ± standard deviation over the seeds. It was measured once on the
  test images.
- "gain" is the difference in points from the run without a teacher of the same options, epochs and seed.

"""
COLUMNS = ["network", "teacher", "distillation", "temperature", "test top-1", "gain", "gain of each seed", "seeds"]
COLUMNS += ["epochs", "data", "seconds", "machine"]
TAUGHT = ("teacher_weights", "distillation", "temperature")
Run = dict[str, Any]


def option(run: Run, name: str) -> Any:
    """Return an option of a run, or None if the run is older than the option."""
    return run["summary"]["configuration"]["options"].get(name)


def decided(run: Run, *without: str) -> str:
    """Return a key of the data and options of a run, without some options, to find runs that are alike."""
    configuration = run["summary"]["configuration"]
    options = {name: value for name, value in configuration["options"].items() if name not in without}
    return repr((configuration["data"]["fingerprint"], sorted(options.items())))


def rows(runs: list[Run]) -> list[list[Run]]:
    """Group the runs that differ only in the seed; runs without a teacher come first."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: option(run, "seed")):
        found.setdefault(decided(run, "seed"), []).append(run)
    return sorted(found.values(), key=lambda row: [row[0]["summary"]["model"], *said(row[0])])


def said(run: Run) -> list[str]:
    """Return the options of a run that concern its teacher, as text that can be sorted."""
    return [str(option(run, name) or "") for name in TAUGHT]


def gain(run: Run, runs: list[Run]) -> float | None:
    """Return the gain of a run over the run without a teacher, or None for a run without a teacher.

    Raises:
        UserError: If the run without a teacher is not among the runs.
    """
    if option(run, "teacher_weights") is None:
        return None
    for other in runs:
        if option(other, "teacher_weights") is None and decided(other, *TAUGHT) == decided(run, *TAUGHT):
            return float(run["summary"]["test_top1"] - other["summary"]["test_top1"])
    raise UserError(f"RUN {run['name']} has a teacher; give also the RUN without one of the same options and seed")


def teacher(run: Run, runs: list[Run]) -> str:
    """Return the network and accuracy of the teacher if its run is among the runs, else its name."""
    digest = option(run, "teacher_weights")
    if digest is None:
        return "none"
    for other in runs:
        if digest == other["weights"]:
            return f"{other['summary']['model']}, {other['summary']['test_top1']:.2f} %"
    return f"{run['summary']['configuration']['teacher']} ({digest})"


def cells(row: list[Run], taught_by: str, gains: list[float]) -> list[str]:
    """Return runs that differ only in the seed as a line of the table."""
    summary = row[0]["summary"]
    machine = summary["configuration"]["machine"]
    values = [
        summary["model"],
        taught_by,
        *("" if option(row[0], name) is None else option(row[0], name) for name in TAUGHT[1:]),
        percent([run["summary"]["test_top1"] for run in row]),
        f"{mean(gains):+.2f}" if gains else "",
        ", ".join(f"{each:+.2f}" for each in gains),
        ", ".join(str(option(run, "seed")) for run in row),
        summary["epochs"],
        summary["data"],
        f"{mean(run['summary']['seconds'] for run in row):,.0f}",
        machine.get("gpu", f"{machine['cpu']}, threads: {machine['threads']}"),
    ]
    return [str(value) for value in values]


def table(record: list[Run]) -> str:
    """Return the page of all runs of the record."""
    lines = []
    for row in rows(record):
        gains = [better for run in row if (better := gain(run, record)) is not None]
        lines.append(cells(row, teacher(row[0], record), gains))
    return HEAD + markdown(COLUMNS, lines)


def read(folder: Path) -> Run:
    """Read a run: its name, the digest of its weights, and its summary."""

    def check(summary: Any) -> None:
        run = {"summary": summary, "weights": ""}
        cells([run], teacher(run, []), [])
        decided(run)

    summary, weights = read_result(folder / "summary.json", check), folder / "last.safetensors"
    digest = file_digest(weights) if weights.is_file() else ""
    return {"name": f"{folder.parent.name}/{folder.name}", "weights": digest, "summary": summary}


def main(folders: list[Path]) -> None:
    """Read the runs and write the record and the table."""
    record = [read(folder) for folder in folders]
    write("distillation", record, table(record))


if __name__ == "__main__":
    sys.exit(collect(__doc__, "RUN", main))
