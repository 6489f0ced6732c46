"""Test the environment of a launcher; two processes together are in tests/cli/test_train.py."""

import pytest

from cifarblocks.cli.train import main


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "x"}, ["RANK", "x"]),
        ({"WORLD_SIZE": "two"}, ["WORLD_SIZE", "two"]),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["WORLD_SIZE", 2, "MASTER_ADDR"]),
    ],
)
def test_an_environment_that_no_launcher_makes_is_refused(monkeypatch, refused, tmp_path, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused(main, ["--model", "mlp", "--epochs", 1, "--output", tmp_path], *named)
