"""Weights of the package: every folder is complete, has a card, and gives the logits of its test vector."""

import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file
from torch import nn

import cifarblocks
from cifarblocks.pretrained import FILE, FOLDER, TEST_VECTOR, find_weights, list_weights

NAMES = list_weights()
each = pytest.mark.parametrize("name", NAMES)


def vector(name):
    found = load_file(FOLDER / name / TEST_VECTOR)
    return found["image"], found["logits"]


@each
def test_a_folder_has_three_files_and_its_card_names_it(name):
    assert {path.name for path in (FOLDER / name).iterdir()} == {FILE, TEST_VECTOR, "README.md"}
    card = cifarblocks.load(name).card
    assert name.startswith(f"{card.model}.")
    assert card.accuracy.keys() == {"top1", "top5", "images", "runs", "seeds"}
    for fact in (card.recipe, card.command, card.machine, card.hours, card.licence, card.limits):
        assert fact
    page = (FOLDER / name / "README.md").read_text()
    for text in (name, f"{card.accuracy['top1']:.2f} %", card.command, card.licence, card.limits, card.data):
        assert text in page


@each
def test_the_logits_are_those_of_the_test_vector(name):
    trained, (image, logits) = cifarblocks.load(name), vector(name)
    with torch.inference_mode():
        found = trained.model(trained.preprocess(image))
        halved = trained.model.to(torch.bfloat16)(trained.preprocess(image)).float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits, atol=1e-3, rtol=0)
    assert halved.argmax() == logits.argmax()
    assert (halved - logits).norm() <= 5e-2 * logits.norm()


@each
def test_weights_of_convolutions_and_linear_layers_are_stored_in_float16_and_nothing_else(name):
    stored = load_file(find_weights(name))
    model = cifarblocks.load(name).model
    layers = {path for path, module in model.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)}
    for path, tensor in stored.items():
        expected = torch.float16 if path.rpartition(".")[0] in layers and path.endswith("weight") else torch.float32
        assert tensor.dtype == (torch.int64 if path.endswith("num_batches_tracked") else expected), path


@each
def test_create_model_gives_what_load_gives(name):
    model, _, weights = name.partition(".")
    built, loaded = cifarblocks.create_model(model, weights).eval(), cifarblocks.load(name).model
    for path, tensor in loaded.state_dict().items():
        assert torch.equal(built.state_dict()[path], tensor), path
    x = torch.randn(2, 3, *built.image_size)
    assert torch.equal(built(x), loaded(x))


def test_names_match_a_wildcard():
    assert list_weights("*.digits") == [name for name in NAMES if name.endswith(".digits")]
    assert list_weights("none_*") == []


def test_a_folder_of_runs_is_answered_with_the_last_runs(tmp_path):
    for number in range(5):
        (tmp_path / "runs" / "cnn" / f"run{number}").mkdir(parents=True)
        (tmp_path / "runs" / "cnn" / f"run{number}" / "last.safetensors").touch()
    for folder in (tmp_path / "runs", tmp_path / "runs" / "cnn"):
        with refuses(ValueError, "no weights", tmp_path / "runs" / "cnn" / "run4") as caught:
            find_weights(folder)
        assert str(caught.value).count("run4") == 1
        assert "run1" not in str(caught.value)


def test_a_path_that_exists_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "eca_resnet_20.digits"
    assert find_weights(name) == FOLDER / name / FILE
    (tmp_path / name).write_text("here")
    assert find_weights(name).read_text() == "here"


def test_a_path_may_begin_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "last.safetensors").touch()
    assert find_weights("~/last.safetensors") == tmp_path / "last.safetensors"
    assert find_weights("~") == tmp_path / "last.safetensors"
    with refuses(ValueError, "~nobody-of-that-name/last.safetensors"):  # the home folder of a user that does not exist
        find_weights("~nobody-of-that-name/last.safetensors")


def test_a_run_folder_has_the_weights_that_are_asked_for(tmp_path):
    for which in ("last", "best"):
        (tmp_path / f"{which}.safetensors").touch()
    assert find_weights(tmp_path).name == "last.safetensors"
    assert find_weights(tmp_path, "best").name == "best.safetensors"
    with refuses(ValueError, tmp_path, "average.safetensors", "best.safetensors", "last.safetensors"):
        find_weights(tmp_path, "average")
    with refuses(ValueError, "which", "first"):
        find_weights(tmp_path, "first")
    with refuses(ValueError, "which", "best", "eca_resnet_20.digits"):
        find_weights("eca_resnet_20.digits", "best")


def test_what_is_neither_a_file_nor_a_name_is_refused():
    with refuses(ValueError, "eca_resnet_20.digit", "eca_resnet_20.digits"):
        find_weights("eca_resnet_20.digit")
    with refuses(ValueError, "runs/none", "run folder", "cifarblocks list --weights"):
        find_weights("runs/none")
    with refuses(ValueError, "'digits'", "eca_resnet_20.digits"):
        find_weights("digits")
    with refuses(TypeError, "path_or_name", "3"):
        find_weights(3)
    with refuses(TypeError, "pattern", "3"):
        list_weights(3)
