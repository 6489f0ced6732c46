"""train.py, the reference loop, as a person and torchrun run it."""

import math
import os
import re
import runpy
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from run_folders import assert_same

from cifarblocks.training.data.datasets import Images, hold_out, load_data

TRAIN = Path(__file__).parents[2] / "examples" / "train.py"
WATCHED = str(Path(__file__).with_name("watched_train.py"))
TINY = ("--model", "resnet_20", "--data", "folder:shades", "--batch-size", "5")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the script in this process: run("--epochs", 1) → its functions and the lines that it printed."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        functions = runpy.run_path(str(TRAIN))
        return functions, capsys.readouterr().out.splitlines()

    return run_here


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def test_it_is_short_enough_to_read():
    assert len(TRAIN.read_text().splitlines()) <= 150


@pytest.mark.slow
def test_the_digits_are_learnt(script):
    finished = script("train.py")
    assert float(re.search(r"test top-1 ([\d.]+)%: \d+ of 360 images", finished.stdout)[1]) >= 98


def test_two_processes_do_what_one_does(together, tmp_path):
    arguments = ("--model", "mlp", "--epochs", 2, "--batch-size", 300)
    printed = [together(WATCHED, *arguments, "--output", n, processes=n).stdout for n in (1, 2)]
    rates = [re.findall(r"learning rate ([\d.]+)", lines) for lines in printed]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 2
    one, two = (checkpoint(tmp_path / folder)["model"] for folder in "12")
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=0, atol=1e-5)


def pixels_of(numbers, data):
    """The pixels that were normalised to numbers (n, 3, h, w), one string of bytes an image."""
    mean, std = torch.tensor(data.mean_and_std)
    pixels = ((numbers.permute(0, 2, 3, 1) * std + mean) * 255).round().to(torch.uint8)
    return Counter(image.numpy().tobytes() for image in pixels)


def test_two_processes_score_each_image_once_by_the_averages_that_are_saved(together, tmp_path):
    arguments = ("--model", "resnet_20", "--epochs", 1)
    finished = together(WATCHED, *arguments)
    watched = [torch.load(tmp_path / f"watched_{rank}.pt") for rank in (0, 1)]

    data = load_data("digits", tmp_path)
    _, validation = hold_out(data.train, torch.Generator().manual_seed(0))
    expected = Counter(image.numpy().tobytes() for image in torch.cat([validation.pixels, data.test.pixels]))
    assert len(validation) == 143  # one process has one more than the other
    assert sum((pixels_of(numbers, data) for numbers, _, _ in watched), Counter()) == expected

    steps = 1294 // 64
    ramp = [0.1 * (step + 1) / (steps / 10) for step in range(steps)]
    fall = [0.05 * (1 + math.cos(math.pi * (step - steps / 10) / (steps - steps / 10))) for step in range(steps)]
    expected_rates = [ramp[step] if step < steps / 10 else fall[step] for step in range(steps)]
    for _, _, rates in watched:
        assert rates == pytest.approx(expected_rates)

    again = together(WATCHED, *arguments, processes=1)  # nothing to train: one scores what two have saved
    assert again.stdout == finished.stdout.splitlines()[-1] + "\n"
    assert "of 360 images" in again.stdout
    _, logits, _ = torch.load(tmp_path / "watched_0.pt")
    for rank, (_, theirs, _) in enumerate(watched):
        torch.testing.assert_close(theirs[-180:], logits[rank::2], rtol=0, atol=1e-4)


def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(run, image_folder, tmp_path):
    arguments = [*TINY, "--epochs", "12", "--output"]
    command = [sys.executable, str(TRAIN), *arguments, "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= checkpoint(tmp_path / "killed")["epoch"] < 12
    (tmp_path / "killed" / "checkpoint.new").write_bytes(b"half of one")
    _, resumed = run(*arguments, "killed")
    _, whole = run(*arguments, "whole")
    assert len(resumed) < len(whole) == 13
    assert resumed[-1] == whole[-1]
    assert_same(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))


def test_images_are_shifted_and_mirrored_as_drawn(run, image_folder):
    functions, _ = run(*TINY, "--epochs", 1)
    crop_and_mirror = functions["crop_and_mirror"]
    pixels = torch.randint(256, (7, 16, 24, 3), dtype=torch.uint8)
    crop_and_mirror.__globals__.update(training=Images(pixels, torch.zeros(7)), h=16, w=24)
    shifts = [(down, right, mirrored) for down in range(-2, 3) for right in range(-3, 4) for mirrored in (True, False)]
    draws = torch.tensor([((d + 2.5) / 5, (r + 3.5) / 7, 0.25 if mirrored else 0.75) for d, r, mirrored in shifts])
    indices = torch.randint(7, (len(shifts),))
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), (3, 3, 2, 2), "replicate").permute(0, 2, 3, 1)
    for image, index, (down, right, mirrored) in zip(crop_and_mirror(indices, draws), indices, shifts, strict=True):
        expected = padded[index, 2 + down : 18 + down, 3 + right : 27 + right]
        assert torch.equal(image, (expected.flip(1) if mirrored else expected).to(torch.uint8))


def test_a_seed_is_a_result(run, image_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(*TINY, "--epochs", 1, "--seed", seed, "--output", name)
    a, b, c = (checkpoint(tmp_path / name) for name in "abc")
    assert_same(a, b)
    assert not torch.equal(a["model"]["head.classifier.weight"], c["model"]["head.classifier.weight"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--model", "resnt_20"), ["resnt_20", "resnet_20"]),
        (("--data", "faces"), ["--data", "cifar10", "a folder", "faces"]),
        (("--epochs", 0), ["--epochs", 1, 0]),
        (("--batch-size", 0), ["--batch-size", 1, 22, 0]),
        (("--batch-size", 23), ["--batch-size", 1, 22, 23]),
        (("--output", "shades/test/dark/0.png"), ["shades/test/dark/0.png"]),
        (("--seed", 1, "--learning-rate", 0.2), ["runs/train/checkpoint.pt", "with --learning-rate 0.1 --seed 0;"]),
    ],
)
def test_what_cannot_work_is_refused(run, image_folder, refused, arguments, named):
    begun = ("--model", "mlp", "--data", "folder:shades", "--batch-size", 5, "--epochs", 1)
    run(*begun)
    refused(lambda given: run(*given), [*begun, *arguments], "train.py: error", *named)
