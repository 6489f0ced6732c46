"""speedrun.py: its whitening, its optimiser and its counting against closed forms, and its command line."""

import json

import numpy as np
import pytest
import speedrun
import torch
from speedrun import Plan, SpeedNet, build_optimizer, count_flops, whitening_filters
from torch import nn

WIDTHS = (8, 12, 16)


def correlated_images() -> torch.Tensor:
    """Each pixel and channel a mixture of its neighbours, with a mean that is not 0."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 3, 14, 14, generator=generator)
    mixed = nn.functional.conv2d(noise, torch.randn(3, 3, 3, 3, generator=generator))
    return mixed + torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_whitened_patches_have_no_correlation_and_variance_1(kernel_size):
    images = correlated_images()
    filters = whitening_filters(images, kernel_size, eps=0).numpy().reshape(-1, 3 * kernel_size**2)
    windows = np.lib.stride_tricks.sliding_window_view(images.numpy(), (kernel_size, kernel_size), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * kernel_size**2)
    np.testing.assert_allclose(np.cov(filters @ patches.T), np.eye(len(filters)), atol=2e-4)


def test_what_varies_less_than_eps_is_not_blown_up():
    """The variance after whitening is v / (v + eps), v those before it."""
    images = correlated_images()
    outputs = nn.functional.conv2d(images, whitening_filters(images, 2, eps=50)).transpose(0, 1).flatten(1)
    patches = nn.functional.unfold(images, 2).transpose(0, 1).flatten(1)
    before = np.linalg.eigvalsh(np.cov(patches.numpy()))
    assert before[0] < 50 < before[-1]
    np.testing.assert_allclose(np.cov(outputs.numpy()), np.diag(before / (before + 50)), atol=2e-4)


def test_the_image_passes_the_first_filters_of_a_convolution():
    x = torch.randn(2, 5, 6, 6)
    conv = speedrun.convolution(5, 9)
    torch.testing.assert_close(conv(x)[:, :5], x)
    assert conv.weight[5:].abs().min() > 0


def small_network() -> SpeedNet:
    return SpeedNet(torch.randn(12, 3, 2, 2), WIDTHS, 10)


def test_every_trained_parameter_is_in_one_group_of_the_optimizer():
    network = small_network()
    theirs = [id(parameter) for group in build_optimizer(network, 500).param_groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(theirs) == sorted(trained)
    assert len(trained) == 6 + 6 + 1  # filters, biases of norms, last layer


def test_the_operations_are_those_of_the_shapes():
    """Forward, and backward for weights and inputs; the first layer has no gradient, nor what comes before it."""

    def muon(rows, columns):
        short, long = sorted((rows, columns))
        return 3 * (2 * short**2 * long + 2 * short**3 + 2 * short**2 * long)

    steps, total = 2 * 10, 0  # of 100 images
    shapes = [(24, 8, 31), (8, 8, 15), (8, 12, 15), (12, 12, 7), (12, 16, 7), (16, 16, 3)]  # channels, map
    for number, (ins, outs, size) in enumerate(shapes):
        total += steps * 10 * (2 if number == 0 else 3) * 2 * ins * outs * 9 * size**2
        total += steps * muon(outs, ins * 9)
    total += steps * 10 * (2 * 3 * 24 * 4 * 31**2 + 3 * 2 * 16 * 10)
    assert count_flops(small_network(), Plan(WIDTHS, 2), 100) == total


def test_on_the_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert speedrun.main(["--target", "88"]) == 0
    result = json.loads((tmp_path / "runs" / "speedrun" / "seed_0.json").read_text())
    assert result["top1"] > 90
    assert result["images"] == ["validation", 143]
    assert result["training_images"] == 1294
    assert 0 < result["share_of_peak"] < 1
    assert f"seed 0: top-1 {result['top1']:.2f} % of 143 validation images" in capsys.readouterr().out


def test_finished_seeds_are_kept(tmp_path, monkeypatch, capsys, refused):
    def run(seed, options, data):
        ran.append(seed)
        result = {"seed": seed, "top1": 90.0 + 2 * seed, "images": ["validation", 143], "seconds": 1.0, "flops": 1e12}
        return result | {"share_of_peak": 0.5, "peak_flops_per_second": 2e12}

    ran = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedrun, "run", run)
    assert speedrun.main(["--seeds", "2"]) == 0
    assert speedrun.main(["--seeds", "3"]) == 0
    assert ran == [0, 1, 2]
    assert "mean 92.00 %, standard deviation 2.00, 3 seeds" in capsys.readouterr().out
    (tmp_path / "runs" / "speedrun" / "seed_1.json").unlink()
    assert speedrun.main(["--seeds", "3"]) == 0
    assert ran == [0, 1, 2, 1]
    refused(speedrun.main, ["--final"], "--output", "runs/speedrun/seed_0.json")
    assert ran == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--target 100", ["--target", 100]),
        ("--seeds 0", ["--seeds", 1, 0]),
        ("--output shades/test/dark/0.png", ["--output", "shades/test/dark/0.png"]),
        ("--data faces", ["--data", "cifar10", "a folder", "faces"]),
        ("--data folder:shades", ["--data", "folder:shades", "6x8", "--image-size", 32]),
        ("--image-size 64", ["--image-size", 32, 64]),
        ("--data folder:shades --image-size 32", ["--data", "folder:shades", 24]),
    ],
)
def test_what_cannot_work_is_refused(image_folder, monkeypatch, refused, arguments, named):
    monkeypatch.chdir(image_folder.parent)
    refused(speedrun.main, arguments.split(), "speedrun.py: error", *named)
    assert not (image_folder.parent / "runs").exists()
