"""Weights files of cifarblocks train: what is written comes back, and nothing else is believed."""

import json
from dataclasses import asdict

import pytest
import torch
from cards import CARD
from refusals import refuses
from safetensors.torch import save_file

import cifarblocks
from cifarblocks.checkpoints.own import load_weights
from cifarblocks.training.run_folder.weights import save_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_with_their_card(tmp_path, dtype):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments).to(dtype).eval()
    save_weights(tmp_path / "weights.safetensors", model, CARD)
    loaded, card = load_weights(tmp_path / "weights.safetensors")
    assert card == CARD
    x = torch.randn(2, 3, 6, 8, dtype=dtype)
    assert torch.equal(loaded(x), model(x))


def written(path, **changes):
    """A file of a model, its card changed: a value of None leaves the entry out."""
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    card = {key: json.dumps(value) for key, value in (asdict(CARD) | changes).items() if value is not None}
    save_file(model.state_dict(), path, card)
    return path


def test_a_card_may_say_more_than_is_read(tmp_path):
    assert load_weights(written(tmp_path / "a.safetensors", format="pt"))[1] == CARD


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mean": None}, []),
        ({"mean": [0.5]}, ["mean", "std", "image_size"]),
        ({"model": "eca_resnet_2"}, ["eca_resnet_2", "eca_resnet_20"]),
        ({"arguments": {"num_classes": 3}}, []),
    ],
)
def test_a_card_that_does_not_fit_is_refused_in_one_sentence(tmp_path, changes, named):
    path = written(tmp_path / "a.safetensors", **changes)
    with refuses(ValueError, path, *named):
        load_weights(path)


def test_a_file_without_tensors_or_of_something_else_is_refused(tmp_path):
    empty, text = tmp_path / "empty.safetensors", tmp_path / "text.safetensors"
    save_file({}, empty, {key: json.dumps(value) for key, value in asdict(CARD).items()})
    text.write_text("not weights")
    for path, named in ((empty, "tensors"), (text, text), (tmp_path / "none", "none")):
        with refuses(ValueError, path, named):
            load_weights(path)
