"""Training from Python: `cifarblocks.training.train`."""

import sys

import pytest
from refusals import refuses

from cifarblocks.training import train
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.folder import read_json


def test_options_are_the_fields_of_the_declaration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [""])  # as at a prompt
    options = {"mean": (0.5, 0.5, 0.5), "std": [0.2] * 3, "model_argument": {"dropout": 0.1}, "image_size": None}
    result = train("mlp", name="first", final=True, share=0.2, output=tmp_path / "out", epochs=1, **options)
    configuration = read_json(tmp_path / "out" / "mlp" / "first" / "configuration.json")
    recorded = configuration["options"]
    assert configuration["command"] == "python"
    assert result["epochs"] == 1
    assert (recorded["mean"], recorded["std"], recorded["model_argument"]) == ([0.5] * 3, [0.2] * 3, {"dropout": 0.1})
    assert recorded["final"] is True
    assert recorded["image_size"] is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epoch": 1}, ["epoch", "epochs"]),
        ({"help": True}, ["help"]),
        ({"epochs": 0}, ["epochs", 1, 0]),
        ({"resume": True}, ["resume=True", "name"]),
    ],
)
def test_a_wrong_option_is_named(options, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with refuses(UserError, *named) as caught:
        train("mlp", **options)
    assert "--" not in str(caught.value)
    assert capsys.readouterr().out == ""
