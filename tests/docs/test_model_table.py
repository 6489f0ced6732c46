"""Each classifier has a line on its page; `python docs/model_table.py --check`, in .ci/run, compares every number."""

from pathlib import Path

import model_table
import pytest

import cifarblocks


@pytest.mark.parametrize("name", cifarblocks.list_models())
def test_the_page_has_a_line_of_each_classifier(name):
    page = Path(model_table.PAGE).read_text()
    assert f"| `{name}` |" in page, f"{name} is not in docs/models.md: run python docs/model_table.py"


def test_the_row_of_a_classifier_is_what_the_registry_gives():
    (line,) = [line for line in model_table.PAGE.read_text().splitlines(keepends=True) if line.startswith("| `cnn`")]
    assert line.split(" | ")[:4] == ["| `cnn`", *model_table.cells("cnn")[1:4]]
