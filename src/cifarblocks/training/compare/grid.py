"""A grid of runs: a TOML file with options of `cifarblocks train`, where a list stands for several runs."""

import math
import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from cifarblocks.training.compare.launch import Settings, tidy
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.declared import DECLARED
from cifarblocks.training.options.toml_files import read_toml, toml_value

GRIDS = Path(__file__).with_name("grids")
TABLES = ("options", "runs", "equal-time")
MOST_RUNS = 10_000  # of a grid: a folder, a log and a lock each
SET_BY_SWEEP = ("help", *(name.replace("_", "-") for name, told in DECLARED.items() if told["kind"] == "place"))


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        settings: every option that the grid gives it.
        name: name of its folder, made from the values of its block and lists.
        label: the values that differ between runs, without the seed.
    """

    settings: Settings
    name: str
    label: str


@dataclass(frozen=True)
class Grid:
    """The runs of a grid file.

    Attributes:
        runs: in the order of the file; runs that differ only in the seed are neighbours.
        reference: settings of the run whose time all runs get; None if the epochs are given.
    """

    runs: list[GridRun]
    reference: Settings | None


def grid_path(text: str) -> Path:
    """Return the path of a grid file, or of the grid of that name that comes with the package.

    >>> grid_path("eca_kernel").name
    'eca_kernel.toml'
    """
    shipped = GRIDS / f"{text}.toml"
    if not (Path(text).exists() or shipped.exists()):
        names = ", ".join(sorted(path.stem for path in GRIDS.glob("*.toml")))
        raise ArgumentTypeError(f"{text!r} is neither a file nor one of {names}")
    return shipped if shipped.exists() and not Path(text).is_file() else Path(text)


def read_grid(path: Path, changes: Settings) -> Grid:
    """Read a grid file.

    Args:
        path: the file: a table [options] for all runs, and a table [[runs]] for each block of them. A list stands for
            one run for each of its values, several lists for each combination.
        changes: values that override those of the file.

    Raises:
        UserError: if the file cannot be read, or is not a grid.
    """
    content = read_toml(path)
    for key in content:
        if key not in TABLES:
            raise UserError(f"{path}: unknown key {key!r}; a grid has [options], [[runs]] and [equal-time]")
    blocks = content.get("runs")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise UserError(f"{path}: a grid has a table [[runs]] or several, got {shortened(blocks)}")
    shared = {**flatten(path, content.get("options", {})), **flatten(Path("--set"), changes)}
    times = {key: value for key, value in content.items() if key == "equal-time"}
    reference = {**flatten(path, times), **pop_times(shared)}
    varied = [{key: value for key, value in flatten(path, block).items() if key not in changes} for block in blocks]
    runs = expand(path, shared, varied)
    return Grid(runs, read_reference(path, reference, runs) if reference else None)


def pop_times(settings: Settings) -> Settings:
    """Remove the values of [equal-time] from the settings, and return them."""
    return {key: settings.pop(key) for key in list(settings) if key.startswith("equal-time.")}


def read_reference(path: Path, given: Settings, runs: list[GridRun]) -> Settings:
    """Return the settings of the reference run: the first run's, with the model and epochs of [equal-time]."""
    if given.keys() != {"equal-time.model", "equal-time.epochs"}:
        raise UserError(f"{path}: [equal-time] has model and epochs, got {', '.join(sorted(given))}")
    epochs = given["equal-time.epochs"]
    if type(epochs) is not int or epochs < 1:
        raise UserError(f"{path}: [equal-time] epochs must be a whole number of at least 1, got {epochs!r}")
    if any("epochs" in run.settings for run in runs):
        raise UserError(f"{path}: epochs follow from [equal-time] and cannot be given with it")
    own = {key: value for key, value in runs[0].settings.items() if not key.startswith("model-argument.")}
    return {**own, "model": given["equal-time.model"], "epochs": epochs}


def flatten(path: Path, table: dict[str, Any]) -> Settings:
    """Return the values of a table, those of a table in it under names like model-argument.ratio.

    >>> flatten(Path("grid"), {"lr": [1, 2], "model-argument": {"ratio": 3}})
    {'lr': [1, 2], 'model-argument.ratio': 3}
    """
    if not isinstance(table, dict):
        raise UserError(f"{path}: [options] must be a table, got {table!r}")
    flat: Settings = {}
    for key, value in table.items():
        inner = value if isinstance(value, dict) and value else {"": value}
        flat |= {tidy(f"{key}.{name}").rstrip("."): each for name, each in inner.items()}
    for key, value in flat.items():
        if key in SET_BY_SWEEP:
            raise UserError(f"{path}: {key} is set by the sweep, got {value!r}")
        # An option of several numbers, such as mean, is a list in the list.
        values = [number for one in as_list(value) for number in as_list(one)]
        if values in ([], [{}]):
            raise UserError(f"{path}: {key} is empty; give it a value, or leave it out")
        if not all(isinstance(one, str | int | float) for one in values):
            found = shortened(value)
            raise UserError(f"{path}: {key} must be a text, a number, true, false or a list of these, got {found}")
        if any(isinstance(one, str) and "\0" in one for one in values):  # it would end an argument of a command line
            raise UserError(f"{path}: {key} must not hold a null character, got {value!r}")
        if any(isinstance(one, int) and one.bit_length() > 63 for one in values):
            raise UserError(f"{path}: {key} must be a number of at most 64 bits")
        if any(isinstance(one, str) and one.startswith("-") for one in values):  # it would be read as an option
            raise UserError(f"{path}: {key} must not begin with -, got {value!r}")
    return flat


def read_value(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is not TOML is a text.

    >>> read_value("seed=[0, 1]"), read_value("weight_decay=1e-4"), read_value("data=folder:flowers")
    (('seed', [0, 1]), ('weight-decay', 0.0001), ('data', 'folder:flowers'))
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return tidy(key), toml_value(value)
    except ValueError:
        return tidy(key), value


def as_list(value: Any) -> list[Any]:
    """Return a list unchanged, and another value as a list of one."""
    return value if isinstance(value, list) else [value]


def expand(path: Path, shared: Settings, blocks: list[Settings]) -> list[GridRun]:
    """Return a run for every combination of the values of each block."""
    total = sum(math.prod(len(as_list(value)) for value in {**shared, **block}.values()) for block in blocks)
    if total > MOST_RUNS:
        raise UserError(f"{path}: a grid has at most {MOST_RUNS:,} runs, got {total:,}")
    combined = []
    for block in blocks:
        axes = {key: as_list(value) for key, value in {**shared, **block}.items()}
        axes["seed"] = axes.pop("seed", [0])  # the last one changes first
        naming = [key for key in axes if key not in ("model", "seed") and (key in block or len(axes[key]) > 1)]
        for values in product(*axes.values()):
            combined.append((dict(zip(axes, values, strict=True)), naming))
    varied = varying_keys([settings for settings, _ in combined])
    runs, seen = [], set()
    for settings, naming in combined:
        if not isinstance(settings.get("model"), str):
            raise UserError(f"{path}: every run needs a model, got {settings}")
        name = file_name({key: settings[key] for key in (*naming, "seed")})
        if (settings["model"], name) in seen:
            raise UserError(f"{path}: two runs are {settings['model']} with {name}")
        seen.add((settings["model"], name))
        differences = [f"{key.rpartition('.')[2]}={settings[key]}" for key in settings if key in varied]
        runs.append(GridRun(settings, name, " ".join([settings["model"], *differences])))
    return runs


def varying_keys(all_settings: list[Settings]) -> set[str]:
    """Return the keys whose values differ between runs, without model and seed."""
    keys = {key for settings in all_settings for key in settings} - {"model", "seed"}
    return {key for key in keys if len({repr(settings.get(key)) for settings in all_settings}) > 1}


def file_name(values: Settings) -> str:
    """Return the name of a run's folder, made from its values.

    >>> file_name({"model-argument.ratio": 3, "data": "folder:my flowers", "seed": 0})
    'ratio-3_data-folder+my+flowers_seed-0'
    """
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, value in values.items()]
    return re.sub(r"[^\w.+-]", "+", "_".join(parts))
