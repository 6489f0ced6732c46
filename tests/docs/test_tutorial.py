"""The tutorial has the outputs of one whole run, small enough for a repository; `make tutorial` runs it."""

import json
from pathlib import Path

import gallery
import pytest

import cifarblocks

NOTEBOOK = Path(gallery.__file__).with_name("tutorial.ipynb")
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
OUTPUTS = [output for cell in CELLS for output in cell["outputs"]]


def test_its_outputs_are_of_one_run_without_errors():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert {output["output_type"] for output in OUTPUTS} <= {"display_data", "execute_result", "stream"}
    assert {output.get("name", "stdout") for output in OUTPUTS} == {"stdout"}  # no warnings
    assert sum("image/png" in output.get("data", {}) for output in OUTPUTS) == 2
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.parametrize("attention", ["none", "eca", "cbam"])
def test_its_table_has_the_parameters_and_multiply_adds_of_today(attention):
    model = cifarblocks.create_model("resnet_20", num_classes=10, attention=attention)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (table,) = [output["data"]["text/markdown"] for output in OUTPUTS if "text/markdown" in output.get("data", {})]
    (line,) = [line for line in table if line.startswith(f"| {attention} |")]
    assert line.strip().endswith(f"| {parameters:,} | {cifarblocks.count_macs(model):,} |")
