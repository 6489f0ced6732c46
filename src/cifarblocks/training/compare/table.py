"""Tables of several runs, as Markdown and CSV: one row for runs that differ only in the seed."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from cifarblocks import models


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed.

    Attributes:
        label: the values that differ from the other rows.
        summaries: content of summary.json of each.
        histories: the lines of metrics.jsonl of each.
    """

    label: str
    summaries: list[dict[str, Any]]
    histories: list[list[dict[str, Any]]]

    def values(self, key: str) -> list[float]:
        """Return a number from the summary of each run that has it."""
        return [summary[key] for summary in self.summaries if summary[key] is not None]

    @property
    def top1(self) -> float:
        """Mean over the seeds of the test top-1 of the last epoch, in percent."""
        return mean(self.values("test_top1"))

    @property
    def selecting(self) -> float:
        """Top-1 for choosing rows: on the validation images, or on the test images without validation images."""
        return mean(self.values("validation_top1") or self.values("test_top1"))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image."""
        return self.summaries[0]["multiply_adds"]

    @property
    def family(self) -> str:
        """Module of cifarblocks.models that defines the model; an ablation has that of its network."""
        module = getattr(getattr(models, self.summaries[0]["model"], None), "__module__", "")
        family = module.partition("cifarblocks.models.")[2] or "other"
        return "resnet" if family == "ablations" else family


def mean_and_deviation(values: list[float]) -> tuple[float | None, float | None]:
    """Return the mean of a sample and, for at least two values, the standard deviation.

    >>> mean_and_deviation([1.0, 3.0]), mean_and_deviation([2.0]), mean_and_deviation([])
    ((2.0, 1.4142135623730951), (2.0, None), (None, None))
    """
    return mean(values) if values else None, stdev(values) if len(values) > 1 else None


def percent(values: list[float]) -> str:
    """Return mean ± standard deviation, human-readable.

    >>> percent([70.0, 72.0]), percent([70.0]), percent([])
    ('71.00 ± 1.41 %', '70.00 %', '')
    """
    center, deviation = mean_and_deviation(values)
    if center is None:
        return ""
    return f"{center:.2f} %" if deviation is None else f"{center:.2f} ± {deviation:.2f} %"


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort rows, the best on the test images first."""
    return sorted(rows, key=lambda row: -row.top1)


def markdown_table(title: str, rows: list[Row], missing: list[str]) -> str:
    """Return the table as Markdown, with the machine, the data and the missing runs."""
    header = ["run", "test top-1", "validation top-1", "seeds", "epochs", "parameters", "multiply-adds", "seconds"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in ranked(rows):
        first = row.summaries[0]
        lines.append(
            [
                row.label,
                percent(row.values("test_top1")),
                percent(row.values("validation_top1")),
                str(len(row.summaries)),
                str(first["epochs"]),
                f"{first['parameters']:,}",
                f"{first['multiply_adds']:,}",
                f"{mean(row.values('seconds')):,.0f}",
            ]
        )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    absent = "".join(f"- {name}\n" for name in missing)
    head = (
        "Top-1 of the last epoch's weights, mean ± standard deviation over the seeds; seconds are the mean of training "
        f"and validation.\n{circumstances(rows)}"
    )
    return f"# {title}\n\n{head}\n\n{table}" + (f"\nNot complete:\n\n{absent}" if missing else "")


def circumstances(rows: list[Row]) -> str:
    """Return the data, machines and versions of the runs of a table."""
    summaries = [summary for row in rows for summary in row.summaries]
    machines = [summary["configuration"]["machine"] for summary in summaries]
    versions = [f"torch {summary['versions']['torch']}" for summary in summaries]
    places = [machine.get("gpu", f"{machine['cpu']}, threads: {machine['threads']}") for machine in machines]
    data = [f"{summary['data']}, {summary['training_images']:,} training images" for summary in summaries]
    return f"{distinct(data)}. {distinct(places)}; {distinct(versions)}."


def distinct(texts: Iterable[str]) -> str:
    """Join texts, each once."""
    return " / ".join(dict.fromkeys(texts))


def csv_table(rows: list[Row]) -> str:
    """Return the same numbers as CSV, with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    measured = ("test_top1", "validation_top1", "seconds")
    columns = [f"{key}_{kind}" for key in measured for kind in ("mean", "std")]
    writer.writerow(["run", "model", "family", "seeds", "epochs", "parameters", "multiply_adds", *columns])
    for row in ranked(rows):
        first = row.summaries[0]
        numbers = [number for key in measured for number in mean_and_deviation(row.values(key))]
        fixed = [first[key] for key in ("epochs", "parameters", "multiply_adds")]
        writer.writerow([row.label, first["model"], row.family, len(row.summaries), *fixed, *numbers])
    return file.getvalue()
