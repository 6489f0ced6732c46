"""cifarblocks train as a person, a scheduler and torchrun run it: real processes, real kills, real files."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cifarblocks
from cifarblocks.checkpoints.own import load_weights
from cifarblocks.training.run_folder.locks import locked, run_lock
from cifarblocks.training.saving import read_checkpoint

TRAIN = ("-m", "cifarblocks", "train")
QUICK = ("--model", "mlp", "--epochs", 2)


def result(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_leaves_what_is_promised(script, tmp_path):
    finished = script("train", *QUICK, "--name", "one", "--seed", 7, "--batch-size", 64, "--lr", 0.1)
    folder = tmp_path / "runs" / "mlp" / "one"
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors",
        "checkpoint.pt",
        "checkpoint_before.pt",
        "configuration.json",
        "curves.png",
        "last.safetensors",
        "metrics.jsonl",
        "mistakes.png",
        "summary.json",
    }
    for path in folder.iterdir():
        assert str(path.relative_to(tmp_path)) in finished.stdout
    assert "learning rate 0.025 (0.1 per 256 images)" in finished.stdout

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0].keys() == {
        "epoch", "train_loss", "train_top1", "validation_loss", "validation_top1", "validation_top5",
        "learning_rate", "images_per_second", "waiting_share", "seconds",
    }  # fmt: skip

    summary = result(folder)
    model = cifarblocks.create_model("mlp", num_classes=10)
    assert summary["model"] == "mlp"
    assert summary["parameters"] == sum(p.numel() for p in model.parameters()) == 1_707_274
    assert summary["multiply_adds"] == cifarblocks.count_macs(model)
    assert summary["data"] == "digits (UCI, 8x8)"
    assert (summary["training_images"], summary["test_images"]) == (1294, 360)
    assert (summary["seed"], summary["world_size"], summary["epochs"]) == (7, 1, 2)
    assert summary["versions"]["torch"] == torch.__version__
    assert f"test top-1 {summary['test_top1']:.2f} %, top-5 {summary['test_top5']:.2f} % on 360" in finished.stdout
    assert 30 < summary["test_top1"] <= summary["test_top5"] <= 100
    assert summary["configuration"]["options"]["batch_size"] == 64

    _, card = load_weights(folder / "last.safetensors")
    assert card.model == "mlp"
    assert card.classes == [str(digit) for digit in range(10)]
    _, best = load_weights(folder / "best.safetensors")
    validation = [line["validation_top1"] for line in lines]
    assert best.epoch == validation.index(max(validation)) + 1
    with Image.open(folder / "curves.png") as picture:
        assert picture.size == (1500, 600)

    again = script("train", *QUICK, "--name", "one", status=2)
    assert "--name one: run runs/mlp/one is there already" in again.stderr


def test_final_trains_on_all_images_and_best_is_last(script, tmp_path):
    script("train", *QUICK, "--final", "--ema", 0.9, "--name", "all")
    folder = tmp_path / "runs" / "mlp" / "all"
    assert result(folder)["training_images"] == 1437
    last, best = (load_file(folder / f"{name}.safetensors") for name in ("last", "best"))
    assert all(torch.equal(last[name], best[name]) for name in last)
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["validation_top1"] is line["average_validation_top1"] is None
    assert "average_test_top1" in result(folder)


def test_without_a_name_each_run_gets_a_folder_of_its_own(script, tmp_path):
    for _ in range(2):
        script("train", *QUICK, "--epochs", 1)
    assert len(list((tmp_path / "runs" / "mlp").iterdir())) == 2


RESUMED = ("--model", "eca_resnet_20", "--model-argument", "drop_path=0.2", "--model-argument", "dropout=0.1",
           "--epochs", "4", "--data", "folder:shades", "--batch-size", "4", "--erasing", "0.5", "--clip", "1",
           "--checkpoint-steps", "2",
           "--resume")  # fmt: skip


def same_run(one: Path, other: Path) -> None:
    """Every weight, every optimiser value and every metric but the times is the same, to the bit."""
    for name in ("last", "best"):
        ours, theirs = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    momenta = [torch.load(folder / "checkpoint.pt", weights_only=True)["optimizer"]["state"] for folder in (one, other)]
    assert momenta[0].keys() == momenta[1].keys()
    assert all(torch.equal(momenta[0][k]["momentum_buffer"], momenta[1][k]["momentum_buffer"]) for k in momenta[0])
    histories = []
    for folder in (one, other):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        histories.append(
            [{k: v for k, v in line.items() if "second" not in k and k != "waiting_share"} for line in lines]
        )
    assert histories[0] == histories[1]
    assert result(one)["test_top1"] == result(other)["test_top1"]
    assert result(one)["test_loss"] == result(other)["test_loss"]


def test_a_run_killed_twice_and_resumed_is_an_uninterrupted_run_to_the_bit(script, tmp_path, image_folder):
    script("train", *RESUMED, "--name", "whole")
    whole, cut = (tmp_path / "runs" / "eca_resnet_20" / name for name in ("whole", "cut"))
    for epochs_before_the_kill in (1, 2):
        process = subprocess.Popen(
            [sys.executable, *TRAIN, *RESUMED, "--name", "cut"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if line.startswith(f"epoch {epochs_before_the_kill}/"):
                break
        checkpoint = cut / "checkpoint.pt"
        deadline = time.monotonic() + 60
        while not checkpoint.exists():  # the line is printed before the checkpoint is written
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.1 * epochs_before_the_kill)  # somewhere in the epoch
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (cut / "summary.json").exists()
        content = read_checkpoint(cut, {})  # the one before, if the kill came between the renaming of two
        assert content is not None
        assert torch.load(io.BytesIO(content), weights_only=True)["history"]
    finished = script("train", *RESUMED, "--name", "cut")
    assert "going on with run runs/eca_resnet_20/cut after epoch" in finished.stdout
    same_run(whole, cut)

    finished = script("train", *RESUMED, "--name", "cut")
    assert finished.stdout.strip().startswith("run runs/eca_resnet_20/cut is finished")


def test_a_run_is_not_resumed_with_other_options_or_other_data(script, tmp_path, image_folder):
    arguments = (*QUICK, "--data", "folder:shades", "--batch-size", 8, "--name", "a", "--resume")
    script("train", *arguments)
    finished = script("train", *arguments, "--lr", 0.5, status=2)
    assert "run runs/mlp/a was begun with lr 0.08, and now it is 0.5" in finished.stderr
    Image.new("RGB", (8, 6), (200, 0, 0)).save(image_folder / "test" / "light" / "0.png")
    finished = script("train", *arguments, status=2)
    assert "run runs/mlp/a was begun with data" in finished.stderr


def test_a_full_disk_keeps_the_last_whole_checkpoint(script, tmp_path):
    """A limit on the size of a file stands in for the disk: the weights fit, the checkpoint and its momentum do not."""
    limited = tmp_path / "limited.py"
    limited.write_text(
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))\n"
        "sys.argv[:1] = ['cifarblocks', 'train']\n"
        "runpy.run_module('cifarblocks', run_name='__main__')\n"
    )
    arguments = (*QUICK, "--name", "full", "--resume")
    finished = script(str(limited), *arguments, status=1)
    assert "runs/mlp/full/checkpoint.pt: File too large; what was written before is whole" in finished.stderr
    assert "Traceback" not in finished.stderr
    folder = tmp_path / "runs" / "mlp" / "full"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    script("train", *arguments)
    assert result(folder)["epochs"] == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_processes_equal_one_without_batchnorm(script, tmp_path, optimizer):
    """20 steps in float64 at the same global batch; 129 images are shared as 65 and 64."""
    arguments = (*QUICK, "--batch-size", 129, "--optimizer", optimizer, "--precision", "float64", "--clip", 1)
    for processes in (1, 2):
        script("train", *arguments, "--name", processes, processes=processes)
    one, two = (load_file(tmp_path / "runs" / "mlp" / str(name) / "last.safetensors") for name in (1, 2))
    for name in one:
        assert one[name].dtype == torch.float64
        assert (one[name] - two[name]).abs().max() < 1e-6 * one[name].abs().max(), name
    histories = [
        [
            json.loads(line)
            for line in (tmp_path / "runs" / "mlp" / str(name) / "metrics.jsonl").read_text().splitlines()
        ]
        for name in (1, 2)
    ]
    for ours, theirs in zip(*histories, strict=True):
        for key in (
            "train_loss",
            "train_top1",
            "validation_loss",
            "validation_top1",
            "validation_top5",
            "learning_rate",
        ):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-9), key


def test_two_processes_with_batchnorm_evaluate_every_image_and_follow_the_same_schedule(script, tmp_path, image_folder):
    arguments = ("--model", "eca_resnet_20", "--epochs", 2, "--data", "folder:shades", "--batch-size", 6)
    printed = {}
    for processes in (1, 2):
        finished = script("train", *arguments, "--name", processes, processes=processes)
        printed[processes] = [line for line in finished.stdout.splitlines() if "learning rate" in line]
    assert printed[1][0].partition("batches")[2] == printed[2][0].partition("batches")[2]
    folders = [tmp_path / "runs" / "eca_resnet_20" / str(processes) for processes in (1, 2)]
    assert [result(folder)["test_images"] for folder in folders] == [8, 8]
    assert [result(folder)["world_size"] for folder in folders] == [1, 2]
    rates = [
        [json.loads(line)["learning_rate"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert rates[0] == rates[1]


def test_a_diverging_run_stops_with_a_sentence_and_keeps_its_checkpoint(script, tmp_path):
    finished = script("train", *QUICK, "--lr", 1e30, "--name", "wild", status=1)
    assert "in epoch 1, step 2; try a smaller --lr than 1e+30; what was written before is whole" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "eca_resnet20"), "unknown model name 'eca_resnet20'; did you mean 'eca_resnet_20'"),
        (("--model-argument", "kernel_size=4"), "kernel_size must be odd and positive"),
        (("--model-argument", "kernel=3"), "has no argument 'kernel'"),
        (("--model-argument", "kernel"), "argument --model-argument: must be NAME=VALUE, got 'kernel'"),
        (("--model-argument", "num_classes=3"), "--model-argument num_classes is set by the data, got 3"),
        (("--data", "mnist"), "--data must be digits, cifar10, cifar100 or folder:PATH, got 'mnist'"),
        (("--data", "folder:nowhere"), "must have a folder nowhere/train, and it is not there"),
        (("--image-size", 0), "argument --image-size: must be a whole number of at least 1, got '0'"),
        (("--epochs", 0), "argument --epochs: must be a whole number of at least 1, got '0'"),
        (("--epochs", "ten"), "argument --epochs: must be a whole number of at least 1, got 'ten'"),
        (("--lr", "nan"), "argument --lr: must be a number of at least 0, got 'nan'"),
        (("--label-smoothing", 2), "argument --label-smoothing: must be a number from 0 to 1, got '2'"),
        (("--warmup-epochs", 20), "--warmup-epochs must be below --epochs 20, got 20.0"),
        (("--batch-size", 5000), "--batch-size 5000 is more than the 1294 training images"),
        (("--precision", "half"), "argument --precision: invalid choice: 'half'"),
        (("--resume",), "--resume needs the --name of the run"),
        (("--resume", "--name", ""), "--name: must be the name of one folder, got ''"),
        (("--resume", "--name", ".."), "--name: must be the name of one folder, got '..'"),
        (("--name", "x" * 300), "--output runs: runs/eca_resnet_20/xxx"),
        (("--output", "file"), "--output file: file/eca_resnet_20"),
        (("--data", "folder:" + "x" * 300), "File name too long"),
        (("--data", "folder:"), "--data must be digits, cifar10, cifar100 or folder:PATH, got 'folder:'"),
        (("--data", "folder:shades", "--data-dir", "file"), "--data folder:shades, --data-dir file: file"),
        (("--seed", 2**64), "argument --seed: must be a whole number of at most 9223372036854775807"),
        (("--model-argument", "drop_path=-1"), "drop_path=-1: drop_path must be at least 0 and below 1, got -1"),
        (("--model-argument", "drop_path=[1]"), "--model eca_resnet_20 drop_path=[1]: "),
        (("--model-argument", "kernel_size=3.0"), "--model eca_resnet_20 kernel_size=3.0: "),
        (("--model-argument", "position='2'"), "position must be 1, 2 or 3, got '2'"),
        (("--model", "resnet_20", "--model-argument", "kernel_size=3"), "has no argument 'kernel_size'"),
        (("--batch-size", 1), "--batch-size 1 leaves a process 1 image, and the BatchNorm of the model needs 2"),
        (("--data", "folder:few"), "6 training images are too few to hold a tenth out to select with; --final"),
        (("--name", "a/b"), "--name: must be the name of one folder, got 'a/b'"),
        (("--epoch", 3), "unrecognized arguments: --epoch 3"),
        (("--model", "cnn", "--model-argument", "drop_path=0.1"), "drop_path must be 0 for cnn"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(arguments, sentence, monkeypatch, tmp_path, image_folder, capsys):
    from cifarblocks.cli import train

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    shutil.copytree(image_folder, tmp_path / "few")
    for image in (tmp_path / "few" / "train").glob("*/*"):
        if int(image.stem) > 2:
            image.unlink()
    try:
        status = train.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("cifarblocks train: error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "folder:nowhere"), "must have a folder nowhere/train"),
        (("--output", "file"), "--output file: file/mlp"),
    ],
)
def test_what_cannot_work_is_said_once_by_many_processes(script, tmp_path, arguments, sentence):
    (tmp_path / "file").touch()
    finished = script("train", *QUICK, *arguments, processes=2, status=1)
    assert finished.stderr.count("cifarblocks train: error: ") == 1
    assert sentence in finished.stderr
    assert "RuntimeError" not in finished.stderr


def test_a_run_is_trained_by_one_process_at_a_time(script, tmp_path):
    arguments = (*QUICK, "--name", "one", "--resume")
    folder = tmp_path / "runs" / "mlp" / "one"
    folder.mkdir(parents=True)
    with locked(run_lock(folder)):
        finished = script("train", *arguments, status=2)
    assert "run runs/mlp/one is being trained by another process" in finished.stderr
    script("train", *arguments)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("configuration.json", b"{bad"),
        ("configuration.json", b"[]"),
        ("summary.json", b'{"test_top1"'),
        ("checkpoint.pt", b""),
        ("checkpoint.pt", b"hello"),
        ("checkpoint.pt", None),
    ],
)
def test_a_damaged_run_is_named(tmp_path, monkeypatch, capsys, file, content):
    """By the process that trained it, which comes back to its folder."""
    from cifarblocks.cli import train

    monkeypatch.chdir(tmp_path)
    arguments = [str(argument) for argument in (*QUICK, "--epochs", 1, "--name", "one", "--resume")]
    assert train.main(arguments) == 0
    folder = tmp_path / "runs" / "mlp" / "one"
    if file != "summary.json":
        (folder / "summary.json").unlink()
    if file == "checkpoint.pt":
        assert not (folder / "checkpoint_before.pt").exists()
    if content is None:
        torch.save([1, 2], folder / file)
    else:
        (folder / file).write_bytes(content)
    capsys.readouterr()
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{file} is not what a run" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_digits_are_learnt_as_the_readme_says(script, tmp_path):
    finished = script("train", "--name", "digits", OMP_NUM_THREADS="2")
    assert "test top-1" in finished.stdout
    assert result(tmp_path / "runs" / "eca_resnet_20" / "digits")["test_top1"] >= 98


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_any_number_of_processes_scores_the_same_images(script, tmp_path, image_folder, processes):
    """One epoch without BatchNorm in float64; the pictures of mistakes are drawn of the same outcomes."""
    arguments = (
        "--model",
        "mlp",
        "--epochs",
        1,
        "--data",
        "folder:shades",
        "--batch-size",
        9,
        "--precision",
        "float64",
    )
    for number in (1, processes):
        script("train", *arguments, "--name", number, processes=number)
    one, many = (result(tmp_path / "runs" / "mlp" / str(number)) for number in (1, processes))
    assert one["test_images"] == many["test_images"] == 8
    assert one["test_top1"] == many["test_top1"]
    assert one["test_loss"] == pytest.approx(many["test_loss"], rel=1e-9)
    pictures = [(tmp_path / "runs" / "mlp" / str(number) / "mistakes.png").read_bytes() for number in (1, processes)]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_the_network_that_diverged_for_its_authors_learns_under_our_rule(script, tmp_path):
    """Their recipe, with batches that the digits have enough images for; the rate follows the batch."""
    recipe = "coatnet_0_custom_enhanced_cifar100_adamw_300_epochs"
    script("train", "--model", "coatnet_0_custom_enhanced", "--recipe", recipe, "--epochs", 3, "--batch-size", 64,
           "--name", "published")  # fmt: skip
    folder = tmp_path / "runs" / "coatnet_0_custom_enhanced" / "published"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 2  # of log 10 = 2.3
