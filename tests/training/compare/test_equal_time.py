"""The speeds of networks that a sweep has measured: what it did not write is refused."""

import json
import math

import pytest
from refusals import refuses

from cifarblocks.training.compare import equal_time
from cifarblocks.training.compare.equal_time import few_images, measured_speeds
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.run import fit_to_few_images


@pytest.mark.parametrize("speed", [0, -1, 1e-320, 10**400, math.nan, math.inf, "fast", None, True, [1]])
def test_a_speed_that_is_none_is_refused(tmp_path, speed):
    record = {"machine": {}, "versions": {}, "speeds": {"--model mlp": speed}}
    (tmp_path / "speeds.json").write_text(json.dumps(record))
    with refuses(UserError, tmp_path / "speeds.json"):
        measured_speeds(tmp_path, [])


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "null", '{"speeds": {}}', "[" * 100_000], ids=lambda text: repr(text[:9])
)
def test_a_file_of_something_else_is_refused_and_stays(tmp_path, text):
    (tmp_path / "speeds.json").write_text(text)
    with refuses(UserError, tmp_path / "speeds.json", "move"):
        measured_speeds(tmp_path, [])
    assert (tmp_path / "speeds.json").read_text() == text


def test_a_measurement_of_speed_has_batches_as_large_as_the_run(monkeypatch):
    monkeypatch.setattr(equal_time, "IMAGES", 1)
    settings = {"model": "mlp", "data": "digits", "recipe": "frozen_backbone_adamw"}
    images = round(few_images(settings) * 1437)
    assert images < 1437
    options = read_options(["--model", "mlp", "--recipe", "frozen_backbone_adamw"])
    assert fit_to_few_images(options, images, 1).batch_size == options.batch_size == 256
