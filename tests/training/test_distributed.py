"""Test the environment of a launcher; two processes together are in tests/cli/test_train.py."""

import pytest
from refusals import assert_names
from together import printed, start_together

from cifarblocks.cli.train import main

LOST = """
import os, sys
from cifarblocks.training.stopping import run_command

def work(processes):
    processes.largest([0])
    if processes.rank == 1:
        os._exit(9)
    processes.largest([0])

sys.exit(run_command("cifarblocks train", work, "cpu"))
"""


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


def test_a_process_that_loses_another_ends_with_a_sentence(tmp_path):
    (tmp_path / "lost.py").write_text(LOST)
    group = start_together(["lost.py"], tmp_path, 2)
    for process in group:
        process.join(timeout=60)
    assert [process.exitcode for process in group] == [1, 9]
    assert_names(printed(tmp_path, 2).stderr, "another process", "--resume")
