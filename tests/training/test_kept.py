"""Files of an older commit: a run of `mlp` on the digits that was killed in its third epoch, and its weights.

They were written before the training system moved into the package, by
`train.py --model mlp --image-size 4 --epochs 3 --precision float32 --name kept --resume`. What that commit's own third
epoch came to stands below; another processor rounds otherwise.
"""

import json
import shutil
from pathlib import Path

import pytest

from cifarblocks.checkpoints.own import read_weights
from cifarblocks.cli import predict, train

KEPT = Path(__file__).with_name("kept")
OPTIONS = ["--model", "mlp", "--image-size", "4", "--epochs", "3", "--precision", "float32", "--name", "kept",
           "--resume"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(KEPT, "runs/mlp/kept"))


def test_an_older_run_goes_on_as_it_would_have(folder, capsys):
    begun = (folder / "metrics.jsonl").read_text()
    assert train.main(OPTIONS) == 0
    assert "runs/mlp/kept after epoch 2" in capsys.readouterr().out
    assert (folder / "metrics.jsonl").read_text().startswith(begun)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train_loss"] == pytest.approx(1.22197, rel=1e-3)
    assert last["validation_loss"] == pytest.approx(0.89696, rel=1e-3)
    assert json.loads((folder / "summary.json").read_text())["test_top1"] == pytest.approx(78.61, abs=0.6)
    assert [read_weights(path)[1].epoch for path in (KEPT / "last.safetensors", folder / "last.safetensors")] == [2, 3]


def test_an_older_run_is_not_resumed_with_other_options(folder, refused):
    refused(train.main, [*OPTIONS, "--seed", "1"], "runs/mlp/kept", "seed", 0, 1)


def test_older_weights_say_what_they_are(folder, capsys):
    arguments = ["--weights", str(folder / "last.safetensors"), "--evaluate", "--data", "digits", "--image-size", "4"]
    assert predict.main(arguments) == 0
    top1 = float(capsys.readouterr().out.partition("top-1 ")[2].partition(" %")[0])
    assert top1 == pytest.approx(78.61, abs=0.6)  # two of 360 images more or fewer
