"""Files that a run leaves in its folder, and a comparison of two runs to the bit."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(folder: Path) -> list[dict]:
    """Return the metrics without those that depend on the speed of the machine."""
    return [{k: v for k, v in line.items() if "second" not in k and k != "waiting_share"} for line in metrics(folder)]


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same(one, other, path="") -> None:
    """Check that nested lists, dictionaries and tensors are equal to the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path} {key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path} {number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_run(one: Path, other: Path) -> None:
    """Check that weights, the optimiser's memory, metrics and, if both were tested, scores are the same to the bit."""
    assert_same(weights(one), weights(other))
    checkpoints = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other)]
    assert_same(*({part: content[part] for part in ("optimizer", "step")} for content in checkpoints))
    assert untimed(one) == untimed(other)
    if all((folder / "summary.json").exists() for folder in (one, other)):
        scores = [{k: v for k, v in summary(folder).items() if "test_" in k} for folder in (one, other)]
        assert scores[0] == scores[1]
