import re
import subprocess
import sys

import pytest
import torch
from cards import CARD
from PIL import Image
from safetensors.torch import save_file

import cifarblocks
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.run_folder.weights import save_weights


@pytest.fixture
def weights(tmp_path):
    """A file of random weights, and the model it was written from."""
    model = cifarblocks.create_model(CARD.model, **CARD.arguments).eval()
    save_weights(tmp_path / "weights.safetensors", model, CARD)
    return tmp_path / "weights.safetensors", model


def test_prints_the_most_probable_classes_of_each_image(weights, image_folder, script):
    path, model = weights
    files = sorted(image_folder.glob("test/*/*.png"))[:3]
    finished = script("predict", "--weights", path, *files)
    lines = finished.stdout.splitlines()
    assert len(lines) == 3
    normalise = Normalisation(CARD.mean, CARD.std, torch.device("cpu"), torch.float32)
    for file, line in zip(files, lines, strict=True):
        with Image.open(file) as image:
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 6, 8, 3)
        expected = 100 * model(normalise(pixels)).softmax(1)[0]
        printed = dict(re.findall(r"(dark|light) ([\d.]+) %", line))
        assert line.startswith(f"{file}: {CARD.classes[int(expected.argmax())]}")
        assert float(printed["light"]) == pytest.approx(expected[1].item(), abs=0.051)


def test_scores_the_weights_as_train_did(script, tmp_path, image_folder):
    data = ("--data", "folder:shades")
    trained = script(
        "train", "--model", "cnn", *data, "--epochs", 3, "--batch-size", 8, "--name", "a", "--image-size", 16
    )
    finished = script("predict", "--weights", "runs/cnn/a/last.safetensors", "--evaluate", *data, "--image-size", 16)
    scores = re.compile(r"top-1 [\d.]+ %, top-5 [\d.]+ % on 8")
    assert scores.search(trained.stdout)[0] == scores.search(finished.stdout)[0]


def test_what_cannot_work_is_said_in_one_sentence(weights, image_folder, tmp_path, monkeypatch, capsys):
    from cifarblocks.cli import predict

    path, _ = weights
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    text = tmp_path / "text.txt"
    text.write_text("not an image")
    monkeypatch.chdir(tmp_path)
    for arguments, sentence in [
        ((path,), "give either image files or --evaluate"),
        ((path, text), "text.txt cannot be read as an image"),
        ((tmp_path / "none", text), "none cannot be used as weights that cifarblocks train wrote: No such file"),
        ((other, text), "other.safetensors cannot be used as weights that cifarblocks train wrote"),
        ((text, text), "text.txt cannot be used as weights that cifarblocks train wrote"),
        ((path, "--evaluate"), "--data digits has the classes ['0', "),
        (
            (path, "--evaluate", "--data", "folder:shades", "--image-size", "7"),
            "--data folder:shades has images of (7, 7)",
        ),
        ((path, text, "--image-size", "7"), "--image-size is for --evaluate"),
        ((path, "--evaluate", "--top", "2"), "--top is not for --evaluate"),
    ]:
        try:
            status = predict.main(["--weights", *map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        assert status == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


def test_images_are_named_with_no_package_but_pillow(weights, image_folder, script, tmp_path):
    """The training system's packages and torchvision cannot be imported."""
    path, _ = weights
    image = next(image_folder.glob("test/*/*.png"))
    missing = ["numpy", "torchvision", "tqdm", "matplotlib", "tensorboard", "optuna", "timm"]
    (tmp_path / "bare.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
        "from cifarblocks.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "assert 'cifarblocks.training.loop' not in sys.modules\n"
        "sys.exit(status)\n"
    )

    def bare(*arguments):
        command = [sys.executable, "bare.py", "predict", "--weights", path, *arguments]
        return subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)

    named = bare(image)
    assert named.returncode == 0, named.stderr
    assert named.stdout == script("predict", "--weights", path, image).stdout
    scored = bare("--evaluate")
    assert scored.returncode == 2
    sentence = "cifarblocks predict: error: --evaluate needs more packages: pip install 'cifarblocks[train]'"
    assert scored.stderr.splitlines()[-1] == sentence
