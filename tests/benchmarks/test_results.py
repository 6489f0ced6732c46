"""Every table for people says what its record says."""

import importlib
import json
import re

import accuracy
import pytest
from measuring import PAGES, RESULTS
from pictures import leaderboard_rows

from cifarblocks.training.compare.table import csv_table, markdown_table

NAMES = ["blocks", "fused_accuracy", "inference", "loss_curves", "profiles", "scale", "train_step"]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_that_of_the_record(name):
    record = json.loads((RESULTS / f"{name}.json").read_text())
    assert importlib.import_module(name).table(record) == (RESULTS / f"{name}.md").read_text()


def test_the_accuracies_are_those_of_the_summaries():
    assert accuracy.table() == (RESULTS / "accuracy.md").read_text()


def test_the_leaderboard_is_that_of_its_runs():
    rows = leaderboard_rows()
    assert markdown_table("leaderboard", rows, []) == (RESULTS / "leaderboard" / "table.md").read_text()
    assert csv_table(rows) == (RESULTS / "leaderboard" / "table.csv").read_text()


def test_the_percentages_of_the_page_stand_in_the_tables():
    tables = "".join((RESULTS / grid / "table.md").read_text() for grid in ("leaderboard", "layer_scale"))
    named = re.findall(r"\d\d\.\d\d %", (PAGES / "leaderboard.md").read_text())
    assert len(named) == 8
    assert all(percentage in tables for percentage in named)
