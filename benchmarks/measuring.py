"""Measurements of the benchmarks: time, memory, machine and versions."""

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
PAGES = Path(__file__).parents[1] / "docs"  # of the pictures

Run = Callable[[], object]
Table = Callable[[dict[str, Any]], str]


def seconds(run: Run, repetitions: int = 1) -> float:
    """Wall clock of one run, the mean of some."""
    began = time.perf_counter()
    for _ in range(repetitions):
        run()
    return (time.perf_counter() - began) / repetitions


def in_turns(runs: Sequence[Run], turns: int, repetitions: int = 1, *, held: int = 0) -> list[list[float]]:
    """Seconds of each run in each turn; in every turn another run begins.

    With `held`, a block of up to so many bytes is held in each turn, each time another, so that what is computed lies
    elsewhere: of two blocks that do the same, one can take 1.3 times as long where its output lies badly.
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
    """Bytes allocated at most at one time, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def surroundings() -> dict[str, Any]:
    """Return the machine, the versions and how layers of ours are made fast, for the record."""
    about = {"machine": machine(torch.device("cpu")), "versions": versions() | {"timm": timm.__version__}}
    return about | {"processor": processor(), "fast_layers": "accelerate"}


def processor() -> str:
    """Return the kind of this processor, by its instructions for bfloat16: a part of the names of records of speed."""
    return bfloat16_instructions() or "float32"


def described(record: dict[str, Any]) -> str:
    """The same in words."""
    machine, versions = record["machine"], record["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm"))
    return f"{machine['cpu']}, {machine['cores']} cores; {libraries}"


def spread(rows: Sequence[dict[str, Any]], rate: str) -> str:
    """The best rate that each run measured, in billions a second, of the runs that the rows are from."""
    rates = [row["rates"][rate] for row in rows]
    least, most = (f"{end / 1e9:,.0f}" for end in (min(rates), max(rates)))
    return least if least == most else f"{least} to {most}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [columns, ["---"] * len(columns), *rows])


def read_record(name: str) -> Any:
    """Return what `results/name.json` holds."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def read_records(name: str) -> list[Any]:
    """Return what `results/name.KIND.json` hold, one for each kind of processor."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}.*.json"))]


def write(name: str, record: Any, table: str) -> None:
    """Write `results/name.json`, and the table for people beside it."""
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table)


def measure_all(name: str, description: str | None, measure: Callable[[], dict[str, Any]], table: Table) -> None:
    """Be a script that is given nothing: measure, print and write `results/name.json` and the table."""
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
    """Measure what was chosen, or all that is known, and write after each; the exit status.

    Rows of `results/KIND.json` that were not chosen stay, if they were measured on this machine with these versions.
    What `about` gives, once in a run, stands in each row that the run measures.
    """
    path, here = RESULTS / f"{kind}.json", surroundings()
    record = json.loads(path.read_text()) if chosen and path.exists() else {"rows": []}
    for name in chosen:
        if name not in known:
            return refuse(f"{kind}.py: error: unknown name {name!r}; known are {', '.join(known)}")
    if record["rows"] and any(record.get(key) != here[key] for key in here):
        return refuse(f"{kind}.py: error: {path.name} is of another machine or version; measure all, without names")
    record |= here
    shared = about()
    for name in chosen or known:
        rows = [row for row in record["rows"] if row["name"] != name] + [row | shared for row in measure(name)]
        record["rows"] = sorted(rows, key=lambda row: list(known).index(row["name"]))
        write(kind, record, table(record))
        print(f"measured {name}", flush=True)
    return 0


def typed(description: str | None, what: str | None = None, number: str = "*") -> list[str]:
    """Read the command line of the script that runs, before it does anything; `--help` prints its docstring and leaves.

    Args:
        description: the docstring of the script.
        what: what it is given, for people; None for a script that is given nothing.
        number: how many of them, as argparse says it.
    """
    parser = Parser(Path(sys.argv[0]).name, description)
    if what is not None:
        parser.add_argument("given", metavar=what, nargs=number)
    return vars(parser.parse_args()).get("given", [])


def collect(description: str | None, what: str, work: Callable[[list[Path]], None]) -> int:
    """Let `work` have the folders that the script is given; the exit status."""
    folders = list(map(Path, typed(description, what, "+")))
    return exit_status(Path(sys.argv[0]).name, lambda: work(folders), "the same command writes all")


def read_result(path: Path, check: Callable[[Any], object]) -> Any:
    """Return what an example wrote, once `check` has used it as the script will: then nothing is found missing later.

    Raises:
        UserError: if it is not there, or is something else.
    """
    try:
        result = json.loads(path.read_text())
        check(result)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not what a run wrote: {first_line(error)}") from error
    return result


def refuse(sentence: str) -> int:
    """Say why, and the exit status of a command that cannot work."""
    print(sentence, file=sys.stderr)
    return 2
