"""Every page of results is the one that its script makes from the record."""

import re

import macs
import pictures
import pytest
from measuring import PAGES, RESULTS


def test_the_results_are_records_and_tables():
    names = {suffix: {path.stem for path in RESULTS.glob(f"*{suffix}")} for suffix in (".json", ".md")}
    assert names[".md"] == names[".json"] | {"macs"}
    assert len(list(RESULTS.rglob("*"))) == len(names[".md"]) + len(names[".json"])


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_the_table_is_that_of_the_record(name):
    assert pictures.table(name) == (RESULTS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet_20"])
def test_the_multiply_adds_are_those_of_the_models(name):
    assert macs.line(name) in (RESULTS / "macs.md").read_text().splitlines()


def test_the_pictures_of_the_generative_examples_are_there():
    found = re.findall(r"!\[.+?\]\((.+?)\)", (RESULTS / "generative.md").read_text())
    assert len(found) == 4
    for picture in found:
        assert (RESULTS / picture).stat().st_size < 200_000


def test_the_percentages_of_the_page_stand_in_the_tables():
    tables = "".join((RESULTS / f"{grid}.md").read_text() for grid in ("leaderboard", "layer_scale"))
    named = re.findall(r"\d\d\.\d\d %", (PAGES / "leaderboard.md").read_text())
    assert len(named) == 8
    assert all(percentage in tables for percentage in named)


@pytest.mark.parametrize("page", sorted(path.name for path in RESULTS.glob("*.md")))
def test_the_scripts_that_a_page_names_exist(page):
    scripts = re.findall(r"`python (\S+\.py)", (RESULTS / page).read_text())
    missing = [script for script in scripts if not (RESULTS.parents[1] / script).is_file()]
    assert not missing
