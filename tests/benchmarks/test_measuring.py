"""Rows of a table: named ones are measured again, others are kept."""

import json

import measuring
import pytest


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    return tmp_path


def renew(*chosen, value=1):
    def measure(name):
        return [{"name": name, "value": value}]

    return measuring.renew("table", chosen, ["b", "a"], measure, lambda record: str(len(record["rows"])))


def rows(results):
    return {row["name"]: row["value"] for row in json.loads((results / "table.json").read_text())["rows"]}


def test_all_are_measured_in_the_order_they_are_known(results):
    assert renew() == 0
    assert list(rows(results).items()) == [("b", 1), ("a", 1)]
    assert (results / "table.md").read_text() == "2"


def test_those_not_chosen_stay(results):
    assert (renew(), renew("b", value=2)) == (0, 0)
    assert list(rows(results).items()) == [("b", 2), ("a", 1)]


def test_an_unknown_name_is_refused(results, refused):
    refused(lambda names: renew(*names), ["c"], "table.py: error", "c", "b", "a")
    assert list(results.iterdir()) == []


def test_rows_of_another_machine_do_not_stay(results, refused):
    renew()
    record = json.loads((results / "table.json").read_text())
    (results / "table.json").write_text(json.dumps({**record, "machine": "another"}))
    refused(lambda names: renew(*names), ["a"], "table.py: error", "table.json")
    assert renew(value=3) == 0
    assert rows(results) == {"b": 3, "a": 3}


def test_what_a_run_measures_once_stands_in_its_own_rows_alone(results):
    def again(*chosen, rate):
        known = ["b", "a"]
        return measuring.renew("table", chosen, known, lambda n: [{"name": n}], lambda _: "", lambda: {"rate": rate})

    again(rate=1)
    again("a", rate=2)
    rows = json.loads((results / "table.json").read_text())["rows"]
    assert {row["name"]: row["rate"] for row in rows} == {"b": 1, "a": 2}


def test_rows_measured_before_accelerate_do_not_stay(results, refused):
    before = {key: value for key, value in measuring.surroundings().items() if key != "fast_layers"}
    (results / "table.json").write_text(json.dumps({"rows": [{"name": "b", "value": 1}], **before}))
    refused(lambda names: renew(*names), ["a"], "table.py: error", "table.json")
