"""Damaged files of a run: each is read as it was written, or refused in a sentence that names it."""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from commands import folder_until_exit, status_of, write_shades
from image_files import DAMAGES
from refusals import assert_names
from run_folders import assert_same

from cifarblocks.checkpoints.own import load_weights
from cifarblocks.cli.train import main
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.checkpoints import CHECKPOINT, PREVIOUS, read_checkpoint
from cifarblocks.training.run_folder.folder import CONFIGURATION, read_json, read_metrics, read_summary
from cifarblocks.training.run_folder.same import decisive

RARE = 4
ARGUMENTS = ["--model", "resnet_20", "--data", "folder:shades", "--epochs", "2", "--batch-size", "8", "--name", "storm"]
AIMED = 2048  # bytes at both ends, where headers and directories are


def weights_of(folder: Path) -> Any:
    model, card = load_weights(folder / "last.safetensors")
    return [dict(model.state_dict()), repr(card)]


def checkpoint_of(folder: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return read_checkpoint(folder, decisive(read_json(whole() / CONFIGURATION)))


READERS: dict[str, Callable[[Path], Any]] = {
    "last.safetensors": weights_of,
    CHECKPOINT: checkpoint_of,
    "summary.json": read_summary,
    "metrics.jsonl": read_metrics,
    CONFIGURATION: lambda folder: read_json(folder / CONFIGURATION),
}
WITHOUT_DIGEST = ("metrics.jsonl", CONFIGURATION)


def case(seed: int) -> None:
    """Damage one file, and read it."""
    draw = random.Random(seed)
    name = draw.choice(sorted(READERS))
    content = damaged((whole() / name).read_bytes(), draw)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / name).write_bytes(content)
        if name == CHECKPOINT and draw.random() < 0.7:
            shutil.copy(whole() / PREVIOUS, folder / PREVIOUS)
        try:
            found = READERS[name](folder)
        except (UserError, ValueError) as error:
            assert_names(str(error), name)
            assert not (folder / PREVIOUS).exists()
            return
    if name == CHECKPOINT:
        epochs = len(found["history"])
        assert_same(found, torch.load(whole() / (CHECKPOINT if epochs == 2 else PREVIOUS), weights_only=True))
    elif name not in WITHOUT_DIGEST:
        assert_same(found, READERS[name](whole()))


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Flip some bits anywhere, at the beginning or at the end, or cut, repeat or replace a part."""
    if draw.random() < 0.5:
        return draw.choice(DAMAGES)(content, draw)
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(min(AIMED, len(changed)))
        place = place if draw.random() < 0.5 else len(changed) - 1 - place
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


KEPT = folder_until_exit()


@cache
def whole() -> Path:
    """Return the folder of a run that nobody damaged."""
    with contextlib.chdir(KEPT), contextlib.redirect_stdout(io.StringIO()):
        write_shades(Path("shades"))
        assert status_of(main, ARGUMENTS) == 0
    folder = Path(KEPT, "runs", "resnet_20", "storm")
    path = folder / "last.safetensors"
    path.write_bytes(sorted_header(path.read_bytes()))
    return folder


def sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in order, which each process writes in another."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
