"""Training from Python: `cifarblocks.training.train`."""

import subprocess
import sys

import pytest

from cifarblocks.training import train
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.folder import read_json

QUICK = {"epochs": 1, "share": 0.2}


def test_options_are_the_fields_of_the_declaration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"mean": (0.5, 0.5, 0.5), "std": [0.2] * 3, "model_argument": {"dropout": 0.1}, "image_size": None}
    result = train("mlp", "digits", name="first", final=True, output=tmp_path / "out", **options, **QUICK)
    recorded = read_json(tmp_path / "out" / "mlp" / "first" / "configuration.json")["options"]
    assert result["epochs"] == 1
    assert (recorded["mean"], recorded["std"], recorded["model_argument"]) == ([0.5] * 3, [0.2] * 3, {"dropout": 0.1})
    assert recorded["final"] is True
    assert recorded["image_size"] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epoch": 1}, "there is no option 'epoch'; did you mean 'epochs'?"),
        ({"help": True}, "there is no option 'help'"),
        ({"epochs": 0}, "--epochs: must be a whole number of at least 1, got '0'"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        train("mlp", **options)
    assert sentence in str(refused.value)
    assert capsys.readouterr().out == ""


def test_it_trains_from_a_prompt(tmp_path):
    lines = f"from cifarblocks.training import train\ntrain('mlp', name='typed', **{QUICK})\n"
    finished = subprocess.run([sys.executable], input=lines, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert read_json(tmp_path / "runs" / "mlp" / "typed" / "configuration.json")["command"] == "python"
