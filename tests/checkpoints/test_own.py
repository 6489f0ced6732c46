"""Weights files of cifarblocks train: they are read as written, and any other content is refused."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from cards import CARD
from refusals import refuses
from run_folders import assert_same
from safetensors.torch import load_file, save_file

import cifarblocks
from cifarblocks.checkpoints.files import ZIP
from cifarblocks.checkpoints.own import LARGEST, as_file, load_weights, metadata_of, read_weights
from cifarblocks.training.run_folder.weights import save_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_with_their_card(tmp_path, dtype):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments).to(dtype).eval()
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), CARD)
    loaded, card = load_weights(tmp_path / "weights.safetensors")
    assert card == CARD
    x = torch.randn(2, 3, 6, 8, dtype=dtype)
    assert torch.equal(loaded(x), model(x))


def test_a_network_of_grey_images_has_one_mean(tmp_path):
    card = replace(CARD, arguments={**CARD.arguments, "in_channels": 1}, mean=[0.4], std=[0.3])
    model = cifarblocks.create_model(card.model, **card.arguments)
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), card)
    assert load_weights(tmp_path / "weights.safetensors")[1] == card
    for changes in ({"mean": [0.4] * 3}, {"std": [0.3] * 3}, {"arguments": CARD.arguments}):
        with refuses(ValueError, *({"std"} & changes.keys() or {"mean"}), "numbers"):
            replace(card, **changes)


def written(path, **changes):
    """A file of a model, its card changed: a value of None leaves the entry out."""
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    changed = {key: json.dumps(value) for key, value in changes.items()}
    card = {key: value for key, value in (metadata_of(CARD) | changed).items() if value != "null"}
    save_file(model.state_dict(), path, card)
    return path


def test_a_card_may_say_more_than_is_read(tmp_path):
    assert load_weights(written(tmp_path / "a.safetensors", format="pt"))[1] == CARD


# Values that no training writes, as JSON; what the message must name beside the value's own name.
STRANGE = [
    *[("model", value) for value in ("null", "3", '"eca_resnet_2"', '["mlp"]')],
    *[("arguments", value) for value in ("null", "[1]", '{"num_classes": 3}', "{}", '{"num_classes": 2, "width": 1}')],
    *[("arguments", f'{{"num_classes": 2, "{name}": "cpu"}}') for name in ("device", "dtype", "features_only")],
    *[
        ("arguments", f'{{"num_classes": 2, "in_channels": {value}}}')
        for value in ("1", "2", "true", "[3]", '"3"', "null")
    ],
    *[("classes", value) for value in ("null", '"dark"', '["dark"]', "[]", '["dark", 1]', '["a", "b", "c"]')],
    *[
        ("image_size", value)
        for value in ("null", "6", "[]", "[6]", "[0, 0]", "[6, 8, 3]", "[6.0, 8]", "[100000, 100000]")
    ],
    *[("image_size", value) for value in ("[8, 6]", "[-6, 8]", "[true, true]", '["6", "8"]')],
    *[
        ("mean", value)
        for value in ("null", "[0.5]", '["a", "b", "c"]', "[0.5, 0.5, NaN]", "[0.5, 0.5, Infinity]", "0.5")
    ],
    *[("mean", f"[0.5, 0.5, {value}]") for value in ("1e308", "-1e308", "1" + "0" * 400)],
    *[("std", value) for value in ("null", "[0.5]", "[0.5, 0.5, 0]", "[0.5, 0.5, -1]", "[1, 1, NaN]", "[1, 1, true]")],
    *[("std", f"[0.5, 0.5, {value}]") for value in ("1e-320", "1e-300", "1e308", "1" + "0" * 400)],
    *[("precision", value) for value in ("null", '"float8"', "[]")],
    *[("data", value) for value in ("null", "{}")],
    *[("epoch", value) for value in ("null", "-1", "1.5", "true", '"3"', "1" * 5000)],
    *[(name, value) for name in ("classes", "arguments") for value in ("", "[" * 100_000, '{"a":' * 100_000, "\x00")],
]


@pytest.fixture(scope="module")
def tensors():
    return cifarblocks.create_model(CARD.model, **CARD.arguments).state_dict()


@pytest.mark.parametrize(("name", "value"), STRANGE, ids=[f"{name} {value[:20]!r}" for name, value in STRANGE])
def test_a_card_that_does_not_fit_is_refused_in_one_sentence(tmp_path, tensors, name, value):
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata_of(CARD) | {name: value})
    with refuses(ValueError, path, *([] if name in ("model", "arguments", "classes") else [name])) as caught:
        load_weights(path)
    assert len(str(caught.value)) < 500


def test_a_model_of_ones_own_has_to_be_registered(tmp_path, tensors):
    card = replace(CARD, model="mine")
    (tmp_path / "a.safetensors").write_bytes(as_file(tensors, card))
    with refuses(ValueError, tmp_path / "a.safetensors", "'mine'", "registers"):
        load_weights(tmp_path / "a.safetensors")


def test_a_card_that_lacks_a_value_is_refused(tmp_path):
    path = written(tmp_path / "a.safetensors", mean=None)
    with refuses(ValueError, path):
        load_weights(path)


def test_a_value_of_a_card_is_named():
    for name, value in (("image_size", (0, 8)), ("mean", [0.5, math.nan, 0.5]), ("std", [0.0] * 3), ("epoch", -1)):
        with refuses(ValueError, name, value):
            replace(CARD, **{name: value})
    assert replace(CARD, image_size=(LARGEST, 1), arguments={"num_classes": 2}).image_size == (LARGEST, 1)


ACCURACY = {"top1": 50, "top5": None, "images": 8, "runs": 1, "seeds": [0]}


@pytest.mark.parametrize(
    "change",
    [
        *[{"top1": value} for value in ("high", None, -1, 101, math.nan, True)],
        *[{"top5": value} for value in ("high", 101)],
        *[{name: value} for name in ("images", "runs") for value in (None, 1.5, 0)],
        *[{"seeds": value} for value in (None, 0, ["0"])],
    ],
    ids=str,
)
def test_an_accuracy_that_cannot_be_printed_is_refused(change):
    assert replace(CARD, accuracy=ACCURACY).accuracy == ACCURACY
    with refuses(ValueError, "accuracy", *change):
        replace(CARD, accuracy=ACCURACY | change)
    with refuses(ValueError, "accuracy", *change):
        replace(CARD, accuracy={name: value for name, value in ACCURACY.items() if name not in change})


def test_a_model_that_does_not_fit_takes_no_memory(tmp_path):
    """Its first layer would take 100 GB."""
    size, path = (4096, 4096), tmp_path / "a.safetensors"
    model = cifarblocks.create_model("mlp", num_classes=2, image_size=(6, 8))
    card = replace(CARD, model="mlp", arguments={"num_classes": 2, "image_size": size}, image_size=size)
    save_weights(path, model.state_dict(), card)
    with refuses(ValueError, path, "stem.2.weight", (512, 3 * 4096**2)):
        load_weights(path)


def test_any_flipped_bit_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, cifarblocks.create_model(CARD.model, **CARD.arguments).state_dict(), CARD)
    content, whole = path.read_bytes(), read_weights(path)
    header = 8 + int.from_bytes(content[:8], "little")
    draw, found = random.Random(0), 0
    for place in [draw.randrange(*part) for part in ((0, header), (header, len(content))) for _ in range(50)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            tensors, card = read_weights(path)
        except ValueError:
            found += 1
            continue
        assert place < header
        assert card == whole[1]
        assert_same(tensors, whole[0])
    assert found > 90


def test_a_digest_under_another_name_is_missed(tmp_path):
    path = written(tmp_path / "a.safetensors", sha25="0" * 64)
    with refuses(ValueError, path, "digest"):
        load_weights(path)


def test_weights_without_a_digest_still_load(tmp_path):
    assert load_weights(written(tmp_path / "a.safetensors"))[1] == CARD


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    model.stages[0][1].conv2.weight.data[0, 0, 0, 0] = value
    save_weights(tmp_path / "a.safetensors", model.state_dict(), CARD)
    with refuses(ValueError, tmp_path / "a.safetensors", "stages.0.1.conv2.weight"):
        load_weights(tmp_path / "a.safetensors")


def test_a_file_of_several_types_is_loaded_in_the_largest(tmp_path):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    model.head.classifier.double().bias.data[0] = 1e300
    save_weights(tmp_path / "a.safetensors", model.state_dict(), CARD)
    loaded, _ = load_weights(tmp_path / "a.safetensors")
    assert loaded.head.classifier.bias[0] == 1e300
    assert loaded.stem[0].weight.dtype == torch.float64


@pytest.mark.parametrize("change", [
    lambda tensors: {**tensors, "more": torch.zeros(1)},
    lambda tensors: {name: value for name, value in tensors.items() if name != "stem.0.weight"},
    lambda tensors: {**tensors, "stem.0.weight": torch.zeros(2)},
    lambda tensors: {**tensors, "stem.0.weight": tensors["stem.0.weight"].int()},
])  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, change):
    path = written(tmp_path / "a.safetensors")
    save_file(change(load_file(path)), path, metadata_of(CARD))
    with refuses(ValueError, path) as caught:
        load_weights(path)
    assert "stem.0.weight" in str(caught.value) or "more" in str(caught.value)


def test_a_file_of_torch_save_is_answered_with_what_reads_it(tmp_path):
    for name in ("mine.pth", "checkpoint.pt"):
        torch.save({"weight": torch.zeros(3)}, tmp_path / name)
        with refuses(ValueError, tmp_path / name, "torch.save", "load_state_dict"):
            load_weights(tmp_path / name)
    for name, kind in (("a.pt2", "torch.export"), ("a.ONNX", "ONNX")):  # .pt2 is a zip archive, as torch.save's are
        (tmp_path / name).write_bytes(ZIP)
        with refuses(ValueError, tmp_path / name, kind):
            load_weights(tmp_path / name)
    written(tmp_path / "last.safetensors")
    with refuses(ValueError, tmp_path / "checkpoint.pt", "torch.save", tmp_path / "last.safetensors"):
        load_weights(tmp_path / "checkpoint.pt")


def test_a_file_without_tensors_or_of_something_else_is_refused(tmp_path):
    empty, text = tmp_path / "empty.safetensors", tmp_path / "text.safetensors"
    save_file({}, empty, metadata_of(CARD))
    text.write_text("not weights")
    for path, named in ((empty, "tensors"), (text, text), (tmp_path / "none", "none")):
        with refuses(ValueError, path, named):
            load_weights(path)
