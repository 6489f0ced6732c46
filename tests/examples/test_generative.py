"""Test the parts that vae.py and acgan.py share: their runs, pixels and numbers, sizes, the picture of a grid."""

import json
import math
import os
import signal
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import acgan
import pytest
import torch
import torch.nn.functional as F
import vae
from commands import after_steps
from image_grids import draw_grid
from PIL import Image
from refusals import refuses
from run_folders import assert_same, metrics, summary, weights
from safetensors import safe_open
from shared import load_pixels, map_sizes, map_widths, shuffled_batches, to_numbers, to_pixels

from cifarblocks.training.data.datasets import Images, load_data
from cifarblocks.training.errors import UserError


def options(tmp_path, **given):
    return Namespace(**{"data": "digits", "data_dir": tmp_path, "image_size": None, "batch_size": 8, **given})


@pytest.mark.parametrize("values", [17, 256])
def test_every_pixel_value_goes_to_a_number_and_back(values):
    pixels = torch.arange(values, dtype=torch.uint8).view(1, 1, values, 1)
    numbers = to_numbers(pixels, values)
    torch.testing.assert_close(numbers.flatten(), torch.linspace(-1, 1, values))
    assert torch.equal(to_pixels(numbers, values), pixels)
    assert torch.equal(to_pixels(numbers + 0.9 / (values - 1), values), pixels)  # the nearest, and none beyond the last


def test_channels_stand_where_networks_want_them():
    pixels = torch.randint(256, (2, 4, 8, 3), dtype=torch.uint8)
    assert to_numbers(pixels, 256).shape == (2, 3, 4, 8)
    assert torch.equal(to_numbers(pixels, 256)[1, 2, 3, 5], pixels[1, 3, 5, 2] / 127.5 - 1)


def test_the_scanned_digits_are_those_that_classifiers_see_enlarged(tmp_path):
    data, values = load_pixels(options(tmp_path))
    large = load_data("digits", tmp_path)
    assert (values, data.train.pixels.shape, data.test.pixels.shape) == (17, (1437, 8, 8, 1), (360, 8, 8, 1))
    assert int(data.train.pixels.max()) == 16
    grey = data.test.pixels.permute(0, 3, 1, 2).float() * 255 / 16
    assert torch.equal(F.interpolate(grey, size=32, mode="bilinear").round()[:, 0], large.test.pixels[..., 0].float())
    assert torch.equal(data.test.labels, large.test.labels)


def test_folders_are_read_at_any_square_size_that_can_be_halved(tmp_path, image_folder):
    data, values = load_pixels(options(tmp_path, data=f"folder:{image_folder}", image_size=12))
    assert (values, data.image_size, data.classes) == (256, (12, 12), ["dark", "light"])
    for size, shown in ((None, "6x8"), (4, "4x4"), (10, "10x10")):
        with refuses(UserError, shown):
            load_pixels(options(tmp_path, data=f"folder:{image_folder}", image_size=size))
    with refuses(UserError, "--batch-size", 25, 24):
        load_pixels(options(tmp_path, data=f"folder:{image_folder}", image_size=8, batch_size=25))


@pytest.mark.parametrize("size", range(8, 260, 4))
def test_maps_end_small_and_every_halving_is_whole(size):
    sizes = map_sizes(size)
    assert all(large == 2 * small for large, small in pairwise(sizes))
    assert sizes[-1] % 2 or sizes[-1] <= 4
    assert len(map_widths(size, 8)) == len(sizes) >= 2


def test_an_epoch_has_each_image_once_in_an_order_of_its_own():
    images = Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    epochs = [torch.cat([batch.labels for batch in shuffled_batches(images, 5, "order", 0, epoch)]) for epoch in (0, 1)]
    assert not torch.equal(*epochs)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(10))
    assert [len(batch) for batch in shuffled_batches(images, 4, "order")] == [4, 4]


def test_a_grid_has_each_image_in_its_row_and_column(tmp_path):
    colours = torch.tensor([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 250, 250], [250, 0, 250]]])
    pixels = colours.view(2, 3, 1, 1, 3).expand(2, 3, 8, 8, 3).to(torch.uint8)
    draw_grid(tmp_path / "grid.png", pixels, 256, "colours", ["first", "second"], ["a", "b", "c"])
    with Image.open(tmp_path / "grid.png") as picture:
        drawn = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
        drawn = drawn.view(picture.height, picture.width, 3)
    boxes = [[(drawn == colour).all(2).nonzero().float() for colour in row.to(torch.uint8)] for row in colours]
    middles = torch.stack([torch.stack([box.mean(0) for box in row]) for row in boxes])  # (rows, columns, 2)
    assert (middles[1, :, 0] > middles[0, :, 0] + 20).all()
    assert (middles[:, 1:, 1] > middles[:, :-1, 1] + 20).all()
    down, across = (box := boxes[0][0]).amax(0) - box.amin(0)
    assert abs(down - across) <= 2  # pixels are squares


def test_grey_values_are_ink_on_paper(tmp_path):
    pixels = torch.tensor([0, 16], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 8, 8, 1)
    draw_grid(tmp_path / "grid.png", pixels, 17, "", [""])
    with Image.open(tmp_path / "grid.png") as picture:
        drawn = torch.frombuffer(bytearray(picture.convert("L").tobytes()), dtype=torch.uint8).view(picture.height, -1)
    ink = (drawn == 0).nonzero()[:, 1].float()
    assert ink.min() > drawn.shape[1] / 2


NARROW = {vae: ("--latent", 2), acgan: ("--noise", 3)}
WEIGHTS = {vae: (vae.VAE, "vae", "parameters"), acgan: (acgan.Generator, "generator", "generator_parameters")}
PICTURES = {vae: {"interpolations.png", "reconstructions.png"}, acgan: set()}
SHADES = ("--data", "folder:shades", "--image-size", 8, "--epochs", 3, "--pictures-every", 2)


@pytest.fixture(params=[vae, acgan], ids=lambda example: example.__name__)
def example(request, tmp_path, image_folder, monkeypatch):
    """One of the two, in a folder with images, with short checks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(acgan, "CHECK_SAMPLES", 64)
    monkeypatch.setattr(acgan, "CHECK_EPOCHS", 2)
    return request.param


def narrow(example, *arguments):
    return [*map(str, ("--width", 4, "--batch-size", 8, *NARROW[example], *arguments))]


def test_a_run_leaves_what_is_promised(example, capsys, refused):
    assert example.main(narrow(example, *SHADES, "--name", "one")) == 0
    folder, printed = Path("runs", example.__name__, "one"), capsys.readouterr().out
    network, name, parameters = WEIGHTS[example]
    assert {path.name for path in folder.iterdir()} == PICTURES[example] | {
        "configuration.json", "metrics.jsonl", "samples_0002.png", "samples_0003.png", "summary.json",
        f"{name}.safetensors",
    }  # fmt: skip
    assert all(str(path) in printed for path in folder.iterdir())
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100
    assert [line["epoch"] for line in metrics(folder)] == [1, 2, 3]
    result = summary(folder)
    assert (result["training_images"], result["test_images"]) == (24, 8)
    with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
        model = network(**json.loads(file.metadata()["arguments"]))
    model.load_state_dict(weights(folder)[name])
    assert sum(p.numel() for p in model.parameters()) == result[parameters]
    if example is vae:
        nats = result["negative_elbo_nats_per_image"]
        assert nats == pytest.approx(result["distortion_nats_per_image"] + result["kl_nats_per_image"])
        assert result["bits_per_dimension"] == pytest.approx(nats / (3 * 8 * 8) / math.log(2))
        assert result["beats_pca"] is (result["reconstruction_mean_squared_error"] < result["pca_mean_squared_error"])
        assert f"{nats:.2f} nats" in printed
    else:
        assert (result["samples"], result["classifier"]) == (64, "resnet_20")
        assert printed.index("epoch 3/3") < printed.index("check: training") < printed.index("requested class")
        for key in ("samples_named_as_asked", "test_top1_trained_on_samples"):
            assert f"{result[key]:.2f} %" in printed
    refused(example.main, narrow(example, *SHADES, "--name", "one"), "--name", "one", folder)


def test_a_seed_is_a_result(example):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert example.main(narrow(example, *SHADES, "--epochs", 1, "--name", name, "--seed", seed)) == 0
    a, b, c = (Path("runs", example.__name__, name) for name in "abc")
    assert_same(weights(a), weights(b))
    with pytest.raises(AssertionError):
        assert_same(weights(a), weights(c))
    results = [{k: v for k, v in summary(folder).items() if not isinstance(v, dict | str)} for folder in (a, b)]
    assert all(results[0][key] == results[1][key] for key in results[0] if "second" not in key)
    for path in a.glob("*.png"):
        assert path.read_bytes() == (b / path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("--data", "faces"), 2, ["--data", "cifar10", "a folder", "faces"]),
        (("--data", "folder:shades"), 2, ["6x8"]),
        (("--epochs", 0), 2, ["--epochs", 1, 0]),
        (("--name", "a/b"), 2, ["--name", "a/b"]),
        ((*SHADES, "--output", "file"), 2, ["--output", "file"]),
        ((*SHADES, "--batch-size", 25), 2, ["--batch-size", 25, 24]),
        ((*SHADES, "--lr", 1e30), 1, ["nan", "epoch 1", "--lr", 1e30]),
    ],
)
def test_what_cannot_work_is_refused(example, refused, arguments, status, named):
    Path("file").touch()
    refused(example.main, narrow(example, *arguments), f"{example.__name__}.py: error", *named, status=status)


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        (vae, ("--image-size", 16), ["--image-size", 16, "8x8"]),
        (vae, (*SHADES, "--latent", 25), ["--latent", 25, 24, 192]),
        (acgan, ("--average", 2), ["--average", 0, 0.9999, 2]),
        (acgan, ("--data", "folder:one", "--image-size", 8), ["--data", "folder:one", 1]),
    ],
)
def test_what_one_of_them_cannot_is_refused(module, arguments, named, tmp_path, image_folder, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        Path("one", part).mkdir(parents=True)
        Path("one", part, "dark").symlink_to(image_folder / part / "dark")
    refused(module.main, narrow(module, *arguments), f"{module.__name__}.py: error", *named)


def test_a_signal_is_answered_in_a_line(example, signals, refused):
    with after_steps(lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        refused(example.main, narrow(example, *SHADES), f"{example.__name__}.py: error", "SIGTERM", status=143)
