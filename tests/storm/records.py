"""Cards, records and grids with senseless values anywhere: they are refused in a sentence that names the file."""

import contextlib
import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import saved_files
from refusals import assert_names
from safetensors.torch import load_file, save_file

from cifarblocks.checkpoints.own import DIGEST, digest_of, load_weights, read_weights
from cifarblocks.pretrained import find_weights
from cifarblocks.training.compare.equal_time import read_speeds
from cifarblocks.training.compare.grid import read_grid
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.folder import read_metrics, read_summary

RARE = 3
SENSELESS = [None, True, -1, 0, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", "猫", "a\0b", "x" * 10000, [], {}]
SENSELESS += [[None], [[]], {"a": 1}, [0, 0], [10**6, 10**6], ["a", "b"], list(range(50))]
DEEP = "[" * 100_000
GRID = {
    "options": {"epochs": [1, 2], "model": "mlp", "data": "digits"},
    "runs": [{"lr": [0.1, 0.2], "model-argument": {"dropout": [0.1, 0.2]}}],
    "equal-time": {"model": "mlp", "epochs": 2},
}
SPEEDS = {"machine": {"cpu": "a"}, "versions": {"torch": "2"}, "speeds": {"--model mlp": 100.0}}


def case(seed: int) -> None:
    """Write one value that makes no sense, or brackets without end, into one file, and read it."""
    draw = random.Random(seed)
    name, (content, write, read) = draw.choice(sorted(FILES.items()))
    changed = spoiled(copy.deepcopy(content()), draw)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, name)
        try:
            write(path, changed)
        except (TypeError, ValueError, OverflowError):
            return  # what cannot be written is in no file
        if draw.random() < 0.02 and name != "card.safetensors":
            path.write_text(DEEP)
        with contextlib.suppress(UserError, ValueError):
            try:
                read(path)
            except (UserError, ValueError) as error:
                assert_names(str(error), name)
                raise


def spoiled(content: Any, draw: random.Random) -> Any:
    """Replace, remove or add a value at a random place of a tree."""
    holder, key = draw.choice(list(places(content)))
    if draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(SENSELESS)
    return content


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each dictionary or list of a tree with each of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


def as_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def as_lines(path: Path, content: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in content))


def as_toml(path: Path, content: Any) -> None:
    """Write plain values as TOML, whose lists and strings are those of JSON, and whose tables may stand on one line."""
    path.write_text("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in content.items()))


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def as_card(path: Path, content: Any) -> None:
    metadata = {key: json.dumps(value) for key, value in content.items()}
    tensors = load_file(saved_files.whole() / "last.safetensors")
    save_file(tensors, path, metadata | {DIGEST: digest_of(tensors, metadata)})


def card() -> Any:
    """The card of a run's weights, with the facts of shipped ones."""
    _, shipped = read_weights(find_weights("eca_resnet_20.digits"))
    _, own = read_weights(saved_files.whole() / "last.safetensors")
    return asdict(shipped) | {name: value for name, value in asdict(own).items() if value is not None}


def summary() -> Any:
    content = read_summary(saved_files.whole())
    return {key: value for key, value in content.items() if key != "sha256"}


File = tuple[Callable[[], Any], Callable[[Path, Any], None], Callable[[Path], Any]]
FILES: dict[str, File] = {
    "card.safetensors": (card, as_card, load_weights),
    "grid.toml": (lambda: GRID, as_toml, lambda path: read_grid(path, {})),
    "metrics.jsonl": (lambda: read_metrics(saved_files.whole()), as_lines, lambda path: read_metrics(path.parent)),
    "speeds.json": (lambda: SPEEDS, as_json, read_speeds),
    "summary.json": (summary, as_json, lambda path: read_summary(path.parent)),
}
