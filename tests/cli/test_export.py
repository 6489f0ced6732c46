"""`cifarblocks export`: the files compute what the weights do, say what they are, and are written only if they do."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from cards import CARD as SHADES
from networks import ONE_A_KIND
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info, set_model_props
from refusals import assert_names, refuses
from safetensors.torch import load_file
from torch import nn

import cifarblocks
from cifarblocks import checkpoints, registry
from cifarblocks.checkpoints.onnx_files import with_digest
from cifarblocks.checkpoints.own import metadata_of
from cifarblocks.cli import export, predict
from cifarblocks.cli.main import main
from cifarblocks.pretrained import FOLDER, TEST_VECTOR
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.run_folder.weights import save_weights

CARD = replace(SHADES, model="mlp")  # which is exported in a second
DIGITS = "eca_resnet_20.digits"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The digits' weights as ONNX of uint8 images, exported by a process of its own: the file, and the process."""
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "cifarblocks", "export", "--weights", DIGITS, "--input", "uint8", "model.onnx"]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return folder / "model.onnx", finished


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty folder with a file of random weights for two classes of 6×8 images."""
    monkeypatch.chdir(tmp_path)
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    save_weights(tmp_path / "last.safetensors", model.state_dict(), CARD)
    return tmp_path / "last.safetensors"


def normalised(card, images):
    """Images (b, 3, h, w) uint8 as training has them."""
    return Normalisation(card.mean, card.std, torch.device("cpu"), torch.float32)(images.permute(0, 2, 3, 1))


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def run_pt2(path, images):
    return torch.export.load(path).module()(images)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_onnxruntime_computes_what_torch_computes_from_the_pixels(exported, batch):
    path, _ = exported
    trained = cifarblocks.load(DIGITS)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(
        run_onnx(path, images), trained.model(normalised(trained.card, images)).detach(), atol=1e-4, rtol=0
    )


def test_it_prints_the_difference_and_the_file_and_nothing_of_the_exporters(exported):
    path, finished = exported
    checked, wrote = finished.stdout.splitlines()
    assert "64 random images" in checked
    assert_names(wrote, "model.onnx", f"{path.stat().st_size / 1e6:.2f} MB", "(batch, 3, 32, 32)", "uint8")
    assert finished.stderr == ""
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_the_metadata_is_the_card_and_names_nothing_of_this_machine(exported):
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert len(metadata.pop("sha256")) == 64
    assert metadata == metadata_of(cifarblocks.load(DIGITS).card)
    assert json.loads(metadata["classes"]) == [str(digit) for digit in range(10)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for text in (str(ROOT), str(Path.home()), sys.prefix):
        assert text.encode() not in path.read_bytes()


def test_predict_prints_the_same_for_both_files(exported, command, image_folder):
    images = sorted(image_folder.glob("test/*/*.png"))
    printed = [command("predict", "--weights", each, *images).stdout for each in (DIGITS, exported[0])]
    assert printed[0] == printed[1]
    assert command("predict", "--weights", exported[0], "--evaluate").stdout.startswith(
        "digits (UCI, 8x8): top-1 99.44"
    )


def test_load_takes_images_of_any_kind(exported):
    with torch.device("meta"):  # another default device changes nothing
        trained, fast = cifarblocks.load(DIGITS), cifarblocks.load(exported[0])
    assert (fast.classes, fast.card.accuracy) == (trained.classes, trained.card.accuracy)
    found = load_file(FOLDER / DIGITS / TEST_VECTOR)
    torch.testing.assert_close(fast.model(fast.preprocess(found["image"])), found["logits"], atol=1e-3, rtol=0)
    images = torch.rand(3, 3, 40, 20, dtype=torch.float64)
    expected = [[label for label, _ in row] for row in trained.predict(images)]
    assert [[label for label, _ in row] for row in fast.predict(images)] == expected
    pixels = torch.randint(1, 255, (2, 3, 32, 32))
    for shift in (-0.4, 0.4):  # to the nearest of 256 levels
        assert torch.equal(fast.model((pixels + shift) / 255), fast.model(pixels / 255))
    fast.model.double()
    assert fast.model(fast.preprocess(images)).dtype == torch.float64


@pytest.mark.parametrize("dtype", ["float", "uint8"])
def test_a_pt2_file_computes_the_same_and_holds_the_card(weights, command, dtype):
    command("export", "--weights", weights, "model.pt2", "--input", dtype)
    trained = cifarblocks.load(weights)
    images = torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8)
    expected = trained.model(normalised(CARD, images))
    for count in (1, 5):
        given = images[:count] / (1 if dtype == "uint8" else 255)
        found = run_pt2("model.pt2", given.to(torch.uint8 if dtype == "uint8" else torch.float32))
        torch.testing.assert_close(found, expected[:count], atol=1e-4, rtol=0)
    extra = {"card.json": ""}
    torch.export.load("model.pt2", extra_files=extra)
    assert json.loads(extra["card.json"]) == metadata_of(CARD)


def test_a_file_that_computes_something_else_is_not_written(weights, monkeypatch, refused):
    def shifted(model):
        model = fuse(model)
        with torch.no_grad():
            model.head.classifier.bias[0] += 0.01
        return model

    fuse = export.fuse
    monkeypatch.setattr(export, "fuse", shifted)
    Path("model.pt2").write_text("before")
    refused(export.main, ["--weights", weights, "model.pt2"], "model.pt2", "1.0e-02", "tolerance")
    assert Path("model.pt2").read_text() == "before"
    assert len(os.listdir()) == 2


def test_weights_that_give_no_numbers_are_refused(weights, refused):
    model = cifarblocks.create_model(CARD.model, weights)
    for parameter in model.parameters():
        parameter.data.fill_(3e38)
    save_weights(weights, model.state_dict(), CARD)
    refused(export.main, ["--weights", weights, "model.pt2"], "model.pt2", "nan")


class Branching(nn.Module):
    """A network whose control flow depends on the images, which a graph cannot express."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        features = x.mean((2, 3)).repeat(1, 2)
        return self.layer(features) if features.sum() > 0 else features[:, :2]


def test_what_torch_cannot_export_is_refused_with_its_name(weights, monkeypatch, refused):
    def branching(num_classes=2, image_size=8):
        return Branching()

    monkeypatch.setitem(registry._factories, "branching", branching)
    card = replace(CARD, model="branching")
    save_weights(weights, Branching().state_dict(), card)
    refused(export.main, ["--weights", weights, "model.pt2"], "branching", "pt2", torch.__version__)
    assert not Path("model.pt2").exists()


def test_what_cannot_work_is_refused(weights, refused):
    Path("folder.onnx").mkdir()
    Path("text.txt").write_text("no weights")
    for arguments, named in [
        ((weights, "model.bin"), ["OUTPUT", ".onnx", ".pt2", "model.bin"]),
        ((weights, "model"), ["OUTPUT", ".onnx", ".pt2", "model"]),
        ((weights, "model.onnx", "--format", "pt2"), ["OUTPUT", ".pt2", "model.onnx"]),
        ((weights, weights, "--format", "onnx"), ["OUTPUT", ".onnx", "last.safetensors"]),
        ((weights, "none/model.onnx"), ["OUTPUT", "none/model.onnx"]),
        ((weights, "folder.onnx"), ["OUTPUT", "folder.onnx"]),
        ((weights, "model.onnx", "--format", "jit"), ["--format", "jit"]),
        ((weights, "model.onnx", "--input", "int8"), ["--input", "int8"]),
        (("text.txt", "model.onnx"), ["--weights", "text.txt"]),
        (("eca_resnet_20.digit", "model.onnx"), ["--weights", "eca_resnet_20.digit", DIGITS]),
    ]:
        refused(export.main, ["--weights", *arguments], "cifarblocks export: error", *named)
    assert not Path("model.onnx").exists()


def doubling(size, **card):
    """An ONNX file that doubles its images."""
    ends = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 3, *size]) for name in ("images", "logits")]
    graph = make_graph([make_node("Add", ["images", "images"], ["logits"])], "doubling", ends[:1], ends[1:])
    model = make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)
    set_model_props(model, card)
    return with_digest(model.SerializeToString())


def flipped(data, place):
    """The bytes with one bit of one of them flipped."""
    changed = bytearray(data)
    changed[place] ^= 4
    return bytes(changed)


def test_damaged_and_foreign_files_are_refused_in_a_sentence(exported, weights, refused, no_files):
    data = exported[0].read_bytes()
    for content, named in [
        (data[: len(data) // 2], []),
        (b"", []),
        (b"text", []),
        *[(flipped(data, place), ["digest"]) for place in (0, len(data) // 3, len(data) // 2, -100, -70, -1)],
        (data[:-76], ["digest"]),  # the graph alone
        (doubling((6, 8)), []),
        (doubling((6, 8), **metadata_of(CARD)), ["images", "logits", [2]]),
        (doubling((6, 8), **metadata_of(CARD) | {"classes": "[1]"}), ["classes"]),
    ]:
        Path("model.onnx").write_bytes(content)
        with refuses(ValueError, "model.onnx", *named):
            cifarblocks.load("model.onnx")
        refused(predict.main, ["--weights", "model.onnx", "a.png"], "--weights", "model.onnx")
    Path("pipe.onnx").symlink_to(no_files["pipe"])
    with refuses(ValueError, "pipe.onnx", "a pipe"):
        cifarblocks.load("pipe.onnx")
    for name in ("model.pt2", "model.PT2"):
        Path(name).touch()
        refused(predict.main, ["--weights", name, "a.png"], "--weights", name, "torch.export")
    Path("MODEL.ONNX").write_bytes(data)
    assert cifarblocks.load("MODEL.ONNX").card.data == cifarblocks.load(DIGITS).card.data


def test_without_onnxruntime_it_says_what_to_install(weights, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "cifarblocks.checkpoints.onnx_files", raising=False)
    monkeypatch.delattr(checkpoints, "onnx_files", raising=False)
    Path("model.onnx").touch()
    told = "model.onnx", "pip install 'cifarblocks[export]'"
    refused(predict.main, ["--weights", "model.onnx", "a.png"], *told)
    refused(main, ["export", "--weights", weights, "model.onnx"], "cifarblocks export", told[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ONE_A_KIND))
def test_every_family_is_exported(name, tmp_path, command):
    arguments = {"num_classes": 2, "image_size": [32, 32]}
    card = replace(CARD, model=name, arguments=arguments, image_size=(32, 32))
    save_weights(tmp_path / "a.safetensors", cifarblocks.create_model(name, **arguments).state_dict(), card)
    trained = cifarblocks.load(tmp_path / "a.safetensors")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = trained.model(normalised(card, images)).detach()
    for file, run in (("model.onnx", run_onnx), ("model.pt2", run_pt2)):
        command("export", "--weights", "a.safetensors", file)
        torch.testing.assert_close(run(file, images / 255), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
