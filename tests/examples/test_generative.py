"""What vae.py and acgan.py share: pixels and numbers, sizes, the picture of a grid."""

from argparse import Namespace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from image_grids import draw_grid
from PIL import Image
from refusals import refuses
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
