"""Helpers of the benchmarks: time, memory, machine, records and command lines."""

import json
import random
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch.profiler import ProfilerActivity, profile

from cifarblocks.checkpoints.files import first_line
from cifarblocks.training.errors import UserError
from cifarblocks.training.hardware import bfloat16_instructions, machine, versions
from cifarblocks.training.options.command_line import Parser
from cifarblocks.training.stopping import exit_status

RESULTS = Path(__file__).with_name("results")
PAGES = Path(__file__).parents[1] / "docs"  # holds the pictures

Run = Callable[[], object]
Table = Callable[[dict[str, Any]], str]


def seconds(run: Run, repetitions: int = 1) -> float:
    """Return the wall clock seconds of one run, the mean of `repetitions`."""
    began = time.perf_counter()
    for _ in range(repetitions):
        run()
    return (time.perf_counter() - began) / repetitions


def in_turns(runs: Sequence[Run], turns: int, repetitions: int = 1, *, held: int = 0) -> list[list[float]]:
    """Return the seconds of each run in each turn; every turn begins with another run.

    `held` is the largest number of bytes that are allocated during a turn. The size is random, so outputs have other
    addresses in each turn: an unlucky address can make one of two equal blocks take 1.3 times as long.
    """
    taken, sizes = [], random.Random(0)
    for turn in range(turns):
        block = torch.empty(sizes.randint(0, held), dtype=torch.uint8)
        order = [(turn + place) % len(runs) for place in range(len(runs))]
        times = {which: seconds(runs[which], repetitions) for which in order}
        taken.append([times[which] for which in range(len(runs))])
        del block
    return taken


def peak_memory(run: Run) -> int:
    """Return the largest number of bytes that a run holds at one time, without those held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def surroundings() -> dict[str, Any]:
    """Return the machine, the versions and the way our layers are accelerated, for the record."""
    about = {"machine": machine(torch.device("cpu")), "versions": versions() | {"timm": timm.__version__}}
    return about | {"processor": processor(), "fast_layers": "accelerate"}


def processor() -> str:
    """Return the kind of this processor, by its bfloat16 instructions; file names of speed records contain it."""
    return bfloat16_instructions() or "float32"


def described(record: dict[str, Any]) -> str:
    """Return the machine and the versions of a record in words."""
    machine, versions = record["machine"], record["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm"))
    return f"{machine['cpu']}, {machine['cores']} cores; {libraries}"


def spread(rows: Sequence[dict[str, Any]], rate: str) -> str:
    """Return the smallest and largest best rate of the runs that measured the rows, in billions per second."""
    rates = [row["rates"][rate] for row in rows]
    least, most = (f"{end / 1e9:,.0f}" for end in (min(rates), max(rates)))
    return least if least == most else f"{least} to {most}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [columns, ["---"] * len(columns), *rows])


def read_record(name: str) -> Any:
    """Read `results/name.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def read_records(name: str) -> list[Any]:
    """Read every `results/name.KIND.json`, one for each kind of processor."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}.*.json"))]


def write(name: str, record: Any, table: str) -> None:
    """Write `results/name.json` and `results/name.md`."""
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table)


def measure_all(name: str, description: str | None, measure: Callable[[], dict[str, Any]], table: Table) -> None:
    """Run a script without arguments: measure, print the page, and write the record and the page."""
    typed(description)
    record = measure() | surroundings()
    print(table(record))
    write(name, record, table(record))


def renew(
    kind: str,
    chosen: Sequence[str],
    known: Collection[str],
    measure: Callable[[str], list[dict[str, Any]]],
    table: Table,
    about: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Measure the chosen names, or all, write after each of them, and return the exit status.

    Rows of `results/KIND.json` that are not chosen stay if they were measured on this machine with these versions.
    `about` is called once; its result is added to each measured row.
    """
    path, here = RESULTS / f"{kind}.json", surroundings()
    record = json.loads(path.read_text()) if chosen and path.exists() else {"rows": []}
    for name in chosen:
        if name not in known:
            return refuse(f"{kind}.py: error: unknown name {name!r}; choose from {', '.join(known)}")
    if record["rows"] and any(record.get(key) != here[key] for key in here):
        return refuse(f"{kind}.py: error: {path.name} is of another machine or version; give no names to measure all")
    record |= here
    shared = about()
    for name in chosen or known:
        rows = [row for row in record["rows"] if row["name"] != name] + [row | shared for row in measure(name)]
        record["rows"] = sorted(rows, key=lambda row: list(known).index(row["name"]))
        write(kind, record, table(record))
        print(f"measured {name}", flush=True)
    return 0


def typed(description: str | None, what: str | None = None, number: str = "*") -> list[str]:
    """Parse the command line of a script; `--help` prints its docstring and exits.

    Args:
        description: the docstring of the script.
        what: name of the arguments in the help; None for a script without arguments.
        number: `nargs` of argparse.
    """
    parser = Parser(Path(sys.argv[0]).name, description)
    if what is not None:
        parser.add_argument("given", metavar=what, nargs=number)
    return vars(parser.parse_args()).get("given", [])


def collect(description: str | None, what: str, work: Callable[[list[Path]], None]) -> int:
    """Call `work` with the folders on the command line, and return the exit status."""
    folders = list(map(Path, typed(description, what, "+")))
    return exit_status(Path(sys.argv[0]).name, lambda: work(folders), "the same command writes all")


def read_result(path: Path, check: Callable[[Any], object]) -> Any:
    """Read a result file and call `check` on it, so that a bad file is refused before anything is written.

    Raises:
        UserError: if the file does not exist, or `check` fails.
    """
    try:
        result = json.loads(path.read_text())
        check(result)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a result of a run: {first_line(error)}") from error
    return result


def refuse(sentence: str) -> int:
    """Print why a command cannot work, and return its exit status."""
    print(sentence, file=sys.stderr)
    return 2
