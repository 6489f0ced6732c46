import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cards import CARD
from PIL import Image
from refusals import assert_names
from run_folders import summary
from safetensors.torch import save_file

import cifarblocks
from cifarblocks.cli import predict
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.run_folder.weights import save_weights


@pytest.fixture
def weights(tmp_path):
    """A file of random weights, and the model it was written from."""
    model = cifarblocks.create_model(CARD.model, **CARD.arguments).eval()
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), CARD)
    return tmp_path / "weights.safetensors", model


def test_prints_the_most_probable_classes_of_each_image(weights, image_folder, command):
    path, model = weights
    files = sorted(image_folder.glob("test/*/*.png"))[:3]
    lines = command("predict", "--weights", path, *files).stdout.splitlines()
    assert len(lines) == 3
    normalise = Normalisation(CARD.mean, CARD.std, torch.device("cpu"), torch.float32)
    for file, line in zip(files, lines, strict=True):
        with Image.open(file) as image:
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 6, 8, 3)
        expected = 100 * model(normalise(pixels)).softmax(1)[0]
        printed = dict(re.findall(r"(dark|light) ([\d.]+) %", line))
        assert line.startswith(f"{file}: {CARD.classes[int(expected.argmax())]}")
        assert float(printed["light"]) == pytest.approx(expected[1].item(), abs=0.051)


def test_names_from_a_file_do_not_reach_the_terminal_as_they_are(weights, image_folder, command, tmp_path):
    """Weights and images of a stranger have names that clear the screen, or look like further lines."""
    path, model = weights
    save_weights(path, model.state_dict(), replace(CARD, classes=["\x1b[2J", "a\nb"], data="\x1b[31m"))
    image = next(image_folder.glob("test/*/*.png")).rename(tmp_path / "a\n猫.png")
    (line,) = command("predict", "--weights", path, image).stdout.splitlines()
    assert line.isprintable()
    assert_names(line, "a\\n猫.png", "a\\nb", "x1b[2J")
    tuned = command(
        "finetune", "--weights", path, "--freeze", "--data", "folder:shades", "--epochs", 1, "--batch-size", 8
    )
    assert r"(\x1b[31m, 6x8, 2 classes)" in tuned.stdout


def test_scores_the_weights_as_train_did(command, image_folder, tmp_path):
    data = ("--data", "folder:shades", "--image-size", 16)
    trained = command("train", "--model", "cnn", *data, "--epochs", 3, "--batch-size", 8, "--name", "a")
    scored = command("predict", "--weights", "runs/cnn/a/last.safetensors", "--evaluate", *data)
    scores = re.compile(r"top-1 [\d.]+ % on 8")
    assert scores.search(trained.stdout)[0] == scores.search(scored.stdout)[0]
    assert summary(tmp_path / "runs/cnn/a")["test_top5"] is None


def test_what_cannot_work_is_refused(weights, image_folder, no_files, tmp_path, monkeypatch, refused):
    path, _ = weights
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.txt").write_text("not an image")
    (tmp_path / "empty" / "of" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "Thumbs.db").touch()
    monkeypatch.chdir(tmp_path)
    for arguments, named in [
        ((path,), ["--evaluate"]),
        ((path, "empty"), ["empty", ".jpg"]),
        ((path, "empty", "empty"), ["empty", ".jpg"]),
        (("none", "text.txt"), ["--weights", "none"]),
        ((no_files["pipe"], "text.txt"), ["--weights", no_files["pipe"], "a pipe"]),
        (("other.safetensors", "text.txt"), ["--weights", "other.safetensors"]),
        (("text.txt", "text.txt"), ["--weights", "text.txt"]),
        ((path, "--evaluate"), ["--evaluate", "--data", CARD.data]),
        ((path, "--evaluate", "--data", "digits"), ["--data", "digits", CARD.classes]),
        ((path, "--evaluate", "--data", "folder:shades", "--image-size", 7), ["--data", "folder:shades", (7, 7)]),
        ((path, "text.txt", "--image-size", 7), ["--image-size", "--evaluate"]),
        ((path, "--evaluate", "--top", 2), ["--top", "--evaluate"]),
        ((path, "--evaluate", "--json"), ["--json", "--evaluate"]),
    ]:
        refused(predict.main, ["--weights", *arguments], "cifarblocks predict: error", *named)


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(weights, image_folder, no_files, command):
    path, _ = weights
    Path("text.txt").write_text("not an image")
    first, second = sorted(image_folder.glob("test/dark/*.png"))[:2]
    bad = {"text.txt": "JPEG", no_files["pipe"]: "a pipe", "missing.png": "No such file"}
    printed = command("predict", "--weights", path, "text.txt", first, *list(bad)[1:], second, status=1)
    assert [line.partition(": ")[0] for line in printed.stdout.splitlines()] == [str(first), str(second)]
    for line, (name, reason) in zip(printed.stderr.splitlines(), bad.items(), strict=True):
        assert_names(line, "cifarblocks predict: error", name, reason)
    assert printed.stdout == command("predict", "--weights", path, first, second).stdout


def test_json_has_a_line_an_image(weights, image_folder, command):
    path, _ = weights
    Path("a\n猫.png").write_text("not an image")
    image = next(image_folder.glob("test/*/*.png"))
    lines = command(
        "predict", "--weights", path, "--json", "--top", 2, image, "a\n猫.png", status=1
    ).stdout.splitlines()
    good, bad = map(json.loads, lines)
    assert good.keys() == {"image", "predictions"}
    assert good["image"] == str(image)
    expected = cifarblocks.load(path).predict(image, top=2)
    for found, (label, probability) in zip(good["predictions"], expected, strict=True):
        assert found == {"label": label, "probability": pytest.approx(probability, abs=1e-6)}
    assert bad.keys() == {"image", "error"}
    assert bad["image"] == "a\n猫.png"


@pytest.mark.parametrize("batch", [3, 256])
def test_folders_of_images_are_predicted_in_batches(weights, image_folder, command, monkeypatch, batch):
    path, _ = weights
    monkeypatch.setattr(predict, "BATCH", batch)
    (image_folder / "test" / "dark" / ".hidden.png").touch()
    (image_folder / "test" / "dark" / "Thumbs.db").touch()
    (image_folder / "test" / "dark" / "more").mkdir()
    dark, light = (sorted(image_folder.glob(f"test/{name}/[0-9].png")) for name in ("dark", "light"))
    extra = image_folder / "train" / "dark" / "0.png"
    for given, files in (
        ([image_folder / "test" / "dark"], dark),
        ([extra, image_folder / "test"], [extra, *dark, *light]),  # class folders
        ([image_folder / "test" / "light", image_folder / "test" / "dark"], [*light, *dark]),
    ):
        printed = command("predict", "--weights", path, *given).stdout.splitlines()
        trained = cifarblocks.load(path)
        for line, file in zip(printed, files, strict=True):
            label, probability = trained.predict(file)[0]
            assert line.startswith(f"{file}: {label} {100 * probability:.1f} %")


def test_an_empty_folder_among_others_is_named(weights, image_folder, command, tmp_path):
    path, _ = weights
    (tmp_path / "empty").mkdir()
    printed = command("predict", "--weights", path, "empty", image_folder / "test" / "dark", status=1)
    assert len(printed.stdout.splitlines()) == 4
    assert_names(printed.stderr, "empty", "a folder")


def test_a_score_on_other_data_than_the_weights_were_trained_on_says_so(weights, image_folder, command):
    path, _ = weights
    score = ("predict", "--weights", path, "--evaluate", "--data")
    assert CARD.data not in command(*score, f"folder:{image_folder}").stdout.partition(":")[2]
    renamed = image_folder.rename(image_folder.with_name("others"))
    assert command(*score, f"folder:{renamed}").stdout.endswith(f"; the weights were trained on {CARD.data}\n")


def test_weights_that_give_no_finite_numbers_are_refused(weights, image_folder, monkeypatch, refused):
    path, model = weights
    for parameter in model.parameters():
        parameter.data.fill_(3e38)
    save_weights(path, model.state_dict(), CARD)
    monkeypatch.chdir(image_folder.parent)
    image = next(image_folder.glob("test/*/*.png"))
    refused(predict.main, ["--weights", path, image], "--weights", path, image)
    refused(predict.main, ["--weights", path, "--evaluate", "--data", "folder:shades"], "--weights", path, "nan")


# Every package that is neither of the core nor Pillow; torch itself may import those that it needs before.
BARE = """
import sys, torch
missing = "torchvision tqdm filelock matplotlib tensorboard textalloc tomli scipy sklearn optuna timm fvcore"
sys.modules.update(dict.fromkeys([*missing.split(), "onnx", "onnxruntime", "onnxscript", "huggingface_hub"]))
from cifarblocks.cli.main import main
weights, image = sys.argv[1:]
assert main(["predict", "--weights", weights, image]) == 0
for data in ("digits", "folder:shades", "mnist"):
    named = "eca_resnet_20.digits" if data == "digits" else weights
    assert main(["predict", "--weights", named, "--evaluate", "--data", data]) == 0
"""


def test_images_are_named_and_scored_with_no_package_but_pillow(weights, image_folder, command, tmp_path):
    path, _ = weights
    image = next(image_folder.glob("test/*/*.png"))
    bare = [sys.executable, "-c", BARE, str(path), str(image)]
    finished = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    named, digits, folder = finished.stdout.splitlines(keepends=True)
    assert named == command("predict", "--weights", path, image).stdout
    assert digits.startswith("digits (UCI, 8x8): top-1 99.44 %")  # as its card says
    assert folder == command("predict", "--weights", path, "--evaluate", "--data", "folder:shades").stdout
    assert finished.returncode == 2
    assert_names(finished.stderr.splitlines()[-1], "--data mnist", "pip install 'cifarblocks[train]'")
