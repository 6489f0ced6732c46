"""cifarblocks train as a person, a scheduler and torchrun run it."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import assert_names
from run_folders import assert_same, assert_same_run, metrics, summary, untimed, weights

import cifarblocks
from cifarblocks.checkpoints.own import load_weights
from cifarblocks.cli import train
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.data.datasets import load_digits, resized
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.run import fit_to_few_images
from cifarblocks.training.run_folder.checkpoints import read_checkpoint
from cifarblocks.training.run_folder.locks import locked, run_lock

QUICK = ("--model", "mlp", "--epochs", 2, "--image-size", 8)
MLP, RESNET = Path("runs/mlp"), Path("runs/eca_resnet_20")


def test_a_run_leaves_what_is_promised(command):
    printed = command("train", *QUICK, "--name", "one", "--seed", 7, "--batch-size", 64, "--lr", 0.1).stdout
    folder = MLP / "one"
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "checkpoint.pt", "checkpoint_before.pt", "configuration.json", "curves.png",
        "last.safetensors", "metrics.jsonl", "mistakes.png", "summary.json",
    }  # fmt: skip
    for path in folder.iterdir():
        assert str(path) in printed
    assert "learning rate 0.025 (0.1 per 256 images)" in printed

    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0].keys() == {
        "epoch", "train_loss", "train_top1", "validation_loss", "validation_top1", "validation_top5",
        "learning_rate", "images_per_second", "waiting_share", "seconds",
    }  # fmt: skip

    result = summary(folder)
    model = cifarblocks.create_model("mlp", num_classes=10, image_size=8)
    assert result["model"] == "mlp"
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert result["multiply_adds"] == cifarblocks.count_macs(model)
    assert result["data"] == "digits (UCI, 8x8)"
    assert (result["training_images"], result["test_images"]) == (1294, 360)
    assert (result["seed"], result["world_size"], result["epochs"]) == (7, 1, 2)
    assert result["versions"]["torch"] == torch.__version__
    assert f"test top-1 {result['test_top1']:.2f} %, top-5 {result['test_top5']:.2f} % on 360" in printed
    assert 30 < result["test_top1"] <= result["test_top5"] <= 100
    assert result["configuration"]["options"]["batch_size"] == 64

    _, card = load_weights(folder / "last.safetensors")
    assert card.model == "mlp"
    assert card.classes == [str(digit) for digit in range(10)]
    _, best = load_weights(folder / "best.safetensors")
    validation = [line["validation_top1"] for line in lines]
    assert best.epoch == validation.index(max(validation)) + 1
    with Image.open(folder / "curves.png") as picture:
        assert picture.size == (1500, 600)


def test_final_trains_on_all_images_and_best_is_last(command):
    command("train", *QUICK, "--final", "--ema", 0.9, "--name", "all")
    result, line = summary(MLP / "all"), metrics(MLP / "all")[0]
    assert result["training_images"] == 1437
    written = weights(MLP / "all")
    assert_same(written["last"], written["best"])
    assert line["validation_top1"] is line["average_validation_top1"] is None
    assert "average_test_top1" in result


def test_without_a_name_each_run_gets_a_folder_of_its_own_and_a_name_is_used_once(command, refused):
    for _ in range(2):
        command("train", *QUICK, "--epochs", 1, "--no-test")
    folders = [folder.name for folder in MLP.iterdir()]
    assert len(folders) == 2
    refused(train.main, [*QUICK, "--name", folders[0]], "--name", folders[0], "--resume")


RESUMED = ("--model", "eca_resnet_20", "--model-argument", "drop_path=0.2", "--model-argument", "dropout=0.1",
           "--epochs", "3", "--data", "folder:shades", "--batch-size", "4", "--erasing", "0.5", "--clip", "1",
           "--checkpoint-steps", "2", "--resume")  # fmt: skip


def test_a_run_that_is_killed_and_resumed_is_an_uninterrupted_run_to_the_bit(command, image_folder):
    command("train", *RESUMED, "--name", "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "cifarblocks", "train", *RESUMED, "--name", "cut"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None
        deadline = time.monotonic() + 60
        while not (RESNET / "cut" / "checkpoint.pt").exists():  # the line is printed before the checkpoint is written
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.1)  # somewhere in the epoch
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (RESNET / "cut" / "summary.json").exists()
    checkpoint = read_checkpoint(RESNET / "cut", {})  # the one before, if the kill came between the renaming of two
    assert checkpoint["history"]
    assert "after epoch" in command("train", *RESUMED, "--name", "cut").stdout
    assert_same_run(RESNET / "whole", RESNET / "cut")
    assert "finished" in command("train", *RESUMED, "--name", "cut").stdout


def test_a_run_on_one_class_says_so(command, image_folder):
    for part in ("train", "test"):
        shutil.rmtree(image_folder / part / "light")
    printed = command("train", *QUICK, "--data", "folder:shades", "--batch-size", 8, "--epochs", 1, "--no-test").stdout
    assert "11 training, 1 validation and 4 test images; 1 class" in printed


def test_a_run_is_not_resumed_with_other_options_or_other_data(command, image_folder, refused):
    arguments = [*QUICK, "--data", "folder:shades", "--batch-size", 8, "--name", "a", "--resume"]
    command("train", *arguments, "--no-test")
    refused(train.main, [*arguments, "--lr", 0.5], MLP / "a", "lr", 0.08, 0.5, "another --name")
    Image.new("RGB", (8, 6), (200, 0, 0)).save(image_folder / "test" / "light" / "0.png")
    refused(train.main, arguments, MLP / "a", "data")


def test_a_full_disk_keeps_the_last_whole_checkpoint(command, refused):
    """A limit on the size of a file stands in for the disk: the weights fit, the checkpoint and its momentum do not."""
    arguments = (*QUICK, "--name", "full", "--resume")
    model = cifarblocks.create_model("mlp", num_classes=10, image_size=8)
    limit = 6 * sum(p.numel() for p in model.parameters())
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, kept[1]))
    try:
        refused(train.main, arguments, MLP / "full" / "checkpoint.pt", status=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert (MLP / "full" / "last.safetensors").exists()
    assert not [path for path in (MLP / "full").iterdir() if path.name.startswith(".")]
    command("train", *arguments)
    assert summary(MLP / "full")["epochs"] == 2


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_two_processes_of_torchrun_equal_one_without_batchnorm(command, script, optimizer):
    """20 steps in float64 at the same global batch; 129 images are shared as 65 and 64."""
    arguments = (*QUICK, "--batch-size", 129, "--optimizer", optimizer, "--precision", "float64", "--clip", 1)
    command("train", *arguments, "--name", "1")
    script("train", *arguments, "--name", "2", processes=2)
    one, two = (weights(MLP / name)["last"] for name in "12")
    for name in one:
        assert one[name].dtype == torch.float64
        assert (one[name] - two[name]).abs().max() < 1e-6 * one[name].abs().max(), name
    for ours, theirs in zip(untimed(MLP / "1"), untimed(MLP / "2"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    results = [summary(MLP / name) for name in "12"]
    assert [result["world_size"] for result in results] == [1, 2]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], rel=1e-9)


def test_two_processes_with_batchnorm_evaluate_every_image_and_follow_the_same_schedule(
    command, together, image_folder
):
    arguments = ("--model", "eca_resnet_20", "--epochs", 2, "--data", "folder:shades", "--batch-size", 6)
    printed = [run("train", *arguments, "--name", name).stdout for run, name in ((command, "1"), (together, "2"))]
    rates = [re.findall(r"batches(.*learning rate.*)", text) for text in printed]
    assert rates[0] == rates[1] != []
    results = [summary(RESNET / name) for name in "12"]
    assert [(result["test_images"], result["world_size"]) for result in results] == [(8, 1), (8, 2)]
    assert len({tuple(line["learning_rate"] for line in metrics(RESNET / name)) for name in "12"}) == 1


def test_a_diverging_run_stops_with_a_sentence(command, refused):
    refused(train.main, [*QUICK, "--lr", 1e6, "--name", "wild"], "epoch 1", "--lr", "1e+06", status=1)


def photos(root):
    """Write 60 photos of three colours: of many sizes, grey and with transparency among them."""
    draw = random.Random(0)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("grey", (120, 120, 120))):
        (root / name).mkdir(parents=True)
        for number in range(20):
            size = draw.randint(40, 400), draw.randint(40, 400)
            image = Image.new("RGB", size, tuple(value + draw.randint(-30, 30) for value in colour))
            if name == "grey":
                image = image.convert("L")
            if number == 7:
                image = image.convert("RGBA")
            image.save(root / name / f"{number}.png")
    return root


def test_sixty_photos_are_trained_on_and_named(command, tmp_path):
    """A folder of photos, with no option but its path."""
    photos(tmp_path / "photos")
    arguments = ("--model", "cnn", "--data", "photos", "--epochs", 1, "--name", "a")
    trained = command("train", *arguments)
    assert_names(trained.stderr.splitlines()[0], "photos", "3 classes", "48 for training", "12 for testing")
    assert_names(trained.stderr.splitlines()[1], "photos", "64x64", "--image-size")
    assert "photos: 44 training, 4 validation and 12 test images" in trained.stdout
    assert "batches of 8," in trained.stdout
    assert "batch-size 8," in trained.stdout
    assert summary(Path("runs/cnn/a"))["configuration"]["options"]["batch_size"] == 8
    assert "is finished" in command("train", *arguments, "--resume").stdout

    scored = command("predict", "--weights", "runs/cnn/a", "--evaluate", "--data", "photos").stdout
    score = re.search(r"top-1 [\d.]+ % on 12", trained.stdout)[0]
    assert score in scored
    named = command("predict", "--weights", "runs/cnn/a", "photos").stdout.splitlines()
    assert len(named) == 60
    assert all(line.startswith("photos/") for line in named)
    tuned = command("finetune", "--weights", "runs/cnn/a", "--data", "photos", "--epochs", 1).stdout
    assert "batches of 8," in tuned


def test_another_seed_has_the_same_test_images(command, tmp_path):
    photos(tmp_path / "photos")
    for seed in (0, 1):
        command("train", *QUICK, "--data", "photos", "--epochs", 1, "--name", seed, "--seed", seed)
    one, other = (summary(MLP / str(seed))["configuration"]["data"]["fingerprint"] for seed in (0, 1))
    assert one == other


GREY = (*QUICK, "--model-argument", "in_channels=1", "--precision", "float32")


def test_grey_images_train_a_network_of_one_channel(command, tmp_path):
    """From the first line to the file that is exported."""
    trained = command("train", *GREY, "--name", "one").stdout
    weights = cifarblocks.load("runs/mlp/one")
    assert weights.model.in_channels == 1
    assert (len(weights.card.mean), weights.card.arguments["in_channels"]) == (1, 1)
    digits = load_digits()
    assert weights.card.mean[0] == pytest.approx(resized(digits, 8).mean_and_std[0][0])

    scores = re.compile(r"top-1 [\d.]+ %, top-5 [\d.]+ % on 360")
    scored = command("predict", "--weights", "runs/mlp/one", "--evaluate", "--image-size", 8).stdout
    assert scores.search(trained)[0] == scores.search(scored)[0]

    colours = torch.rand(3, 8, 8)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(weights.preprocess(colours), weights.preprocess((colours * luma).sum(0)))
    pixels = resized(digits, 8).test.pixels
    normalise = Normalisation(weights.card.mean, weights.card.std, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(weights.preprocess(pixels.permute(0, 3, 1, 2)), normalise(pixels))

    Image.fromarray(pixels[0].numpy()).save("digit.png")
    command("export", "--weights", "runs/mlp/one", "one.onnx")
    one, other = (command("predict", "--weights", file, "digit.png").stdout for file in ("runs/mlp/one", "one.onnx"))
    assert one == other

    frozen = ("--freeze", "--epochs", 1, "--image-size", 8, "--name", "tuned")
    assert "same classes" in command("finetune", "--weights", "runs/mlp/one", *frozen).stdout
    tuned = cifarblocks.load("runs/mlp/tuned").card
    assert (tuned.mean, tuned.std) == (weights.card.mean, weights.card.std)


def test_a_network_of_one_channel_refuses_colours(command, image_folder, refused):
    command("train", *GREY, "--name", "one", "--epochs", 1)
    colours = ("--data", "shades", "--batch-size", 8)
    refused(train.main, [*GREY, *colours], "in_channels=1", "shades", "colours")
    refused(train.main, [*GREY, "--mean", 0.5, 0.4, 0.5], "--mean", "in_channels=1", [0.5, 0.4, 0.5])
    refused(train.main, [*QUICK, "--teacher", "runs/mlp/one"], "--teacher", "1 channels", 3)
    for value in (2, "None", "True", "[1]"):
        refused(train.main, [*QUICK, "--model-argument", f"in_channels={value}"], "in_channels", 1, 3, value)


@pytest.mark.parametrize(
    ("typed", "images", "processes", "expected"),
    [
        ((), 256, 1, 64),  # the recipe's, as long as there are four such batches
        ((), 255, 1, 32),
        ((), 63, 1, 8),
        ((), 33, 1, 8),
        ((), 31, 1, 4),
        ((), 7, 1, 2),
        ((), 1, 1, 2),
        ((), 31, 2, 4),
        ((), 31, 3, 8),  # 2 each are 6
        ((), 31, 4, 8),
        (("--accumulate", "4"), 31, 1, 8),
        (("--accumulate", "4"), 31, 2, 16),
        (("--batch-size", "64"), 31, 1, 64),
        (("--batch-size", "16"), 31, 1, 16),
    ],
)
def test_few_images_make_smaller_batches(typed, images, processes, expected):
    assert fit_to_few_images(read_options(["--model", "mlp", *typed]), images, processes).batch_size == expected


@pytest.mark.parametrize(
    ("typed", "images", "epochs", "lr"),
    [
        ((), 1280, 20, 0.08),  # 20 steps an epoch
        ((), 640, 30, 0.08),
        ((), 48, 50, 0.08),  # 6 batches of 8
        ((), 1, 300, 0.08),
        (("--epochs", "3"), 48, 3, 0.08),
        (("--optimizer", "adamw", "--lr", "0.002"), 48, 50, 0.002),
        (("--recipe", "fine_tuning_adamw"), 48, 50, 0.016),
        (("--recipe", "fine_tuning_adamw"), 1280, 15, 0.002),
    ],
)
def test_few_images_make_more_epochs_and_adamw_keeps_the_rate_of_a_step(typed, images, epochs, lr):
    fitted = fit_to_few_images(read_options(["--model", "mlp", *typed]), images, 1)
    assert (fitted.epochs, fitted.lr) == (epochs, lr)


def test_a_batch_size_that_few_images_made_smaller_is_the_same_in_two_processes_and_on_resume(
    image_folder, together, command
):
    arguments = (*QUICK, "--data", "shades", "--name", "a", "--resume")
    assert "batches of 4," in together("train", *arguments, "--no-test").stdout
    assert "batches of 4," in command("train", *arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--model", "eca_resnet20"), ["eca_resnet20", "eca_resnet_20"]),
        (("--model-argument", "kernel_size=4"), ["kernel_size", 4]),
        (("--model-argument", "kernel=3"), ["eca_resnet_20", "kernel"]),
        (("--model-argument", "kernel"), ["--model-argument", "kernel"]),
        (("--model-argument", "num_classes=3"), ["--model-argument", "num_classes", 3]),
        (("--data", "shads"), ["--data", "cifar10", "a folder", "'shads'", "'shades'"]),
        (("--data", "folder:shads"), ["--data", "folder:shads", "'shades'"]),
        (("--image-size", 0), ["--image-size", 1, 0]),
        (("--epochs", 0), ["--epochs", 1, 0]),
        (("--epochs", "ten"), ["--epochs", "ten"]),
        (("--lr", "nan"), ["--lr", 0, "nan"]),
        (("--share", 0.001), ["--batch-size", 2, "1 training images", "--share", 0.001]),
        (("--share", 1e-9), ["--share", "1e-09 is too small"]),
        (("--label-smoothing", 2), ["--label-smoothing", 0, 1, 2]),
        (("--warmup-epochs", 20), ["--warmup-epochs", "--epochs", 20, 20.0]),
        (("--batch-size", 5000), ["--batch-size", 5000, 1294]),
        (("--data", "shades", "--batch-size", 64), ["--batch-size", 64, 22]),
        (("--precision", "half"), ["--precision", "half"]),
        (("--resume",), ["--resume", "--name"]),
        (("--resume", "--name", ""), ["--name", "''"]),
        (("--resume", "--name", ".."), ["--name", "'..'"]),
        (("--name", "a/b"), ["--name", "a/b"]),
        (("--name", "x" * 300), ["--output", f"runs/eca_resnet_20/{'x' * 300}"]),
        (("--output", "file"), ["--output", "file/eca_resnet_20"]),
        (("--data", "folder:" + "x" * 300), ["--data", "x" * 300]),
        (("--data", "folder:"), ["--data", "'folder:'"]),
        (("--data", "folder:shades", "--data-dir", "file"), ["--data-dir", "file", "folder:shades"]),
        (("--seed", 2**64), ["--seed", 2**63 - 1]),
        (("--model-argument", "drop_path=-1"), ["drop_path", -1]),
        (("--model-argument", "drop_path=[1]"), ["--model", "drop_path", "[1]"]),
        (("--model-argument", "kernel_size=3.0"), ["--model", "kernel_size", 3.0]),
        (("--model-argument", "position='2'"), ["position", "'2'"]),
        (("--model", "resnet_20", "--model-argument", "kernel_size=3"), ["resnet_20", "kernel_size"]),
        (("--model", "cnn", "--model-argument", "drop_path=0.1"), ["cnn", "drop_path", 0.1]),
        (("--batch-size", 1), ["--batch-size", 1, "BatchNorm"]),
        (("--data", "folder:few"), [6, "--final"]),
        (("--epoch", 3), ["--epoch", 3]),
    ],
)
def test_what_cannot_work_is_refused(arguments, named, monkeypatch, tmp_path, image_folder, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if "folder:few" in arguments:
        shutil.copytree(image_folder, "few")
        for image in Path("few/train").glob("*/*"):
            if int(image.stem) > 2:
                image.unlink()
    refused(train.main, arguments, "cifarblocks train: error", *named)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("--data", "folder:nowhere"), ["--data", "folder:nowhere"]), (("--output", "file"), ["--output", "file/mlp"])],
)
def test_what_cannot_work_is_said_once_by_many_processes(together, tmp_path, arguments, named):
    (tmp_path / "file").touch()
    assert_names(together("train", *QUICK, *arguments, status=2).stderr, "cifarblocks train: error", *named)


def test_a_run_is_trained_by_one_process_at_a_time(command, refused):
    arguments = (*QUICK, "--name", "one", "--resume", "--no-test")
    with locked(run_lock(MLP / "one")):
        refused(train.main, arguments, MLP / "one")
    command("train", *arguments)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", b'{"test_top1"'),
        ("checkpoint.pt", b""),
        ("checkpoint.pt", b"hello"),
        ("checkpoint.pt", None),
    ],
)
def test_a_damaged_run_is_named(command, refused, image_folder, file, content):
    """The process that trained the run returns to its folder."""
    arguments = (*QUICK, "--epochs", 1, "--data", "folder:shades", "--batch-size", 8, "--name", "one", "--resume")
    command("train", *arguments, "--no-test")
    folder = MLP / "one"
    assert not (folder / "checkpoint_before.pt").exists()
    if content is None:
        torch.save([1, 2], folder / file)
    else:
        (folder / file).write_bytes(content)
    refused(train.main, arguments, folder / file)


@pytest.mark.slow
def test_the_digits_are_learnt_as_the_readme_says(script, tmp_path):
    script("train", "--name", "digits")
    assert summary(tmp_path / RESNET / "digits")["test_top1"] >= 98


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_any_number_of_processes_scores_the_same_images(command, together, image_folder, processes):
    """One epoch without BatchNorm in float64; the pictures of mistakes are drawn of the same outcomes."""
    arguments = (*QUICK, "--data", "folder:shades", "--batch-size", 9, "--precision", "float64")
    command("train", *arguments, "--name", "one")
    together("train", *arguments, "--name", "many", processes=processes)
    one, many = (summary(MLP / name) for name in ("one", "many"))
    assert one["test_images"] == many["test_images"] == 8
    assert one["test_top1"] == many["test_top1"]
    assert one["test_loss"] == pytest.approx(many["test_loss"], rel=1e-9)
    assert len({(MLP / name / "mistakes.png").read_bytes() for name in ("one", "many")}) == 1


@pytest.mark.slow
def test_the_network_that_diverged_for_its_authors_learns_under_our_rule(command):
    """Their recipe, with batches that the digits have enough images for; the rate follows the batch."""
    recipe = "coatnet_0_custom_enhanced_cifar100_adamw_300_epochs"
    command("train", "--model", "coatnet_0_custom_enhanced", "--recipe", recipe, "--epochs", 3, "--batch-size", 64,
            "--name", "published")  # fmt: skip
    losses = [line["train_loss"] for line in metrics(Path("runs/coatnet_0_custom_enhanced/published"))]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 2  # of log 10 = 2.3
