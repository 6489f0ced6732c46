"""Test that a run's files are read back as written, and that anything else is refused in one sentence."""

import getpass
import json
import math
import random
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from refusals import refuses
from safetensors import safe_open

from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.folder import (
    CONFIGURATION,
    METRICS,
    SUMMARY,
    read_json,
    read_metrics,
    read_summary,
    write_metrics,
    write_summary,
)

LINE = {"epoch": 1, "train_loss": 2.1, "train_top1": 34.8, "validation_loss": None, "validation_top1": None,
        "images_per_second": 16157.4, "seconds": 0.08}  # fmt: skip
RESULT = {"model": "mlp", "data": "digits", "parameters": 5, "multiply_adds": 7, "epochs": 1, "training_images": 9,
          "test_top1": 78.61, "seconds": 0.1, "validation_top1": None, "versions": {"torch": "2"},
          "configuration": {"machine": {"cpu": "a", "threads": 1}}}  # fmt: skip
STRANGE = ["", "{", "null", "3", "[]", "{}", "[" * 100_000, '{"a":' * 100_000, "\0", "\ud800"]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode(errors="surrogatepass"))
    return path


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: repr(text[:9]))
def test_files_of_something_else_are_refused(tmp_path, text):
    with refuses(UserError, write(tmp_path / SUMMARY, text), "--resume"):
        read_summary(tmp_path)
    if text != "{}":
        with refuses(UserError, write(tmp_path / "a.json", text)):
            read_json(tmp_path / "a.json")
    if text:  # nothing is a run without an epoch
        with refuses(UserError, write(tmp_path / METRICS, text)):
            read_metrics(tmp_path)


def test_a_result_comes_back_as_it_was(tmp_path):
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, RESULT)
    assert read_summary(tmp_path) == RESULT
    write(tmp_path / SUMMARY, json.dumps(RESULT))  # as it was written before there were digests
    assert read_summary(tmp_path) == RESULT


@pytest.mark.parametrize("key", RESULT)
@pytest.mark.parametrize("value", ["absent", {}, True, "\x00"])
def test_a_result_of_another_shape_is_refused(tmp_path, key, value):
    if (key, value) in (("model", "\x00"), ("data", "\x00")):
        return
    content = {name: known for name, known in RESULT.items() if name != key}
    write(tmp_path / SUMMARY, json.dumps(content if value == "absent" else content | {key: value}))
    with refuses(UserError, tmp_path / SUMMARY):
        read_summary(tmp_path)


@pytest.mark.parametrize("value", [10**400, -5, math.nan, math.inf, 1e300], ids=lambda value: str(value)[:5])
@pytest.mark.parametrize("key", ["parameters", "epochs", "seconds", "test_top1"])
def test_a_number_that_no_run_has_is_refused(tmp_path, key, value):
    write(tmp_path / SUMMARY, json.dumps({**RESULT, key: value}, sort_keys=False))
    with refuses(UserError, tmp_path / SUMMARY, key):
        read_summary(tmp_path)


@pytest.mark.parametrize("gpu", ["H200", 3])
def test_a_gpu_has_a_name(tmp_path, gpu):
    write_summary(tmp_path, RESULT | {"configuration": {"machine": {"cpu": "a", "threads": 1, "gpu": gpu}}})
    with nullcontext() if gpu == "H200" else refuses(UserError, tmp_path / SUMMARY, "gpu", 3):
        assert read_summary(tmp_path)


def test_epochs_are_validated_all_or_none(tmp_path):
    write_metrics(tmp_path, [LINE, {**LINE, "epoch": 2, "validation_top1": 50.0}])
    with refuses(UserError, tmp_path / METRICS, "validation_top1", "epoch 2"):
        read_metrics(tmp_path)


def test_any_flipped_bit_of_a_result_is_found_or_changes_nothing(tmp_path):
    write_summary(tmp_path, RESULT)
    content, draw, found = (tmp_path / SUMMARY).read_bytes(), random.Random(0), 0
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        (tmp_path / SUMMARY).write_bytes(changed)
        try:
            result = read_summary(tmp_path)
        except UserError:
            found += 1
            continue
        assert result == RESULT
    assert found > 0.8 * len(content) / 3


def test_a_changed_digit_is_told(tmp_path):
    write_summary(tmp_path, RESULT)
    text = (tmp_path / SUMMARY).read_text()
    write(tmp_path / SUMMARY, text.replace("78.61", "79.61"))
    with refuses(UserError, tmp_path / SUMMARY, "digest"):
        read_summary(tmp_path)


def test_metrics_come_back_as_they_were(tmp_path):
    assert read_metrics(tmp_path) == []
    for history in ([], [LINE, {**LINE, "epoch": 2, "average_validation_top1": 3}]):
        write_metrics(tmp_path, history)
        assert read_metrics(tmp_path) == history


@pytest.mark.parametrize("change", [{"epoch": 2}, {"epoch": "1"}, {"train_loss": None}, {"seconds": True},
                                    {"validation_loss": "low"}, {"validation_top1": [1]}])  # fmt: skip
def test_metrics_of_another_shape_are_refused(tmp_path, change):
    (key,) = change
    write_metrics(tmp_path, [{**LINE, **change}])
    with refuses(UserError, tmp_path / METRICS, key):
        read_metrics(tmp_path)


def test_a_finished_run_names_no_folder_user_or_host_and_writes_a_changed_result_anew(
    command, image_folder, tmp_path, monkeypatch
):
    folder = Path("runs/mlp/a").resolve()
    data = ("--data", f"folder:{image_folder}", f"--data-dir={tmp_path / 'cache'}", "--output", tmp_path / "runs")
    arguments = ("--model", "mlp", *data, "--epochs", 1, "--batch-size", 8, "--name", "a", "--resume")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cifarblocks", "train", *map(str, arguments)])
    command("train", *arguments)
    with safe_open(folder / "last.safetensors", framework="pt") as file:
        texts = [str(file.metadata())]
    texts += [(folder / name).read_text() for name in (CONFIGURATION, SUMMARY, METRICS)]
    for text in texts:
        for secret in (str(tmp_path), tmp_path.parts[1] + "/", getpass.getuser() + "/", socket.gethostname()):
            assert secret not in text, secret
    assert "--data folder:.../shades" in json.loads(texts[1])["command"]

    written, path = json.loads(texts[2]), folder / SUMMARY
    path.write_text(texts[2].replace('"test_loss": ', '"test_loss": 1'))
    assert str(path) in command("train", *arguments, status=2).stderr
    path.unlink()
    command("train", *arguments)
    assert json.loads(path.read_text())["test_loss"] == written["test_loss"]
