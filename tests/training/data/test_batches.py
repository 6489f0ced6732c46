import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from cifarblocks.training.data.batches import (
    Augmentation,
    Normalisation,
    erased_pixels,
    evaluation_batches,
    source_pixels,
    training_batches,
)
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.data.seeds import random_stream

PLAIN = Normalisation([0.0] * 3, [1 / 255] * 3, torch.device("cpu"), torch.float32)


def numbered_images(n: int, h: int = 6, w: int = 8) -> Images:
    """Random images whose label is their number."""
    return Images(torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8), torch.arange(n))


def test_normalisation_is_that_of_torchvision_and_channels_last():
    pixels = torch.randint(0, 256, (5, 6, 8, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.25, 0.3]
    result = Normalisation(mean, std, torch.device("cpu"), torch.float64)(pixels)
    planes = transforms.to_dtype(pixels.permute(0, 3, 1, 2), torch.float64, scale=True)
    torch.testing.assert_close(result, transforms.normalize(planes, mean, std))
    assert result.is_contiguous(memory_format=torch.channels_last)


@given(
    down=st.floats(0, 1, exclude_max=True, width=32),
    right=st.floats(0, 1, exclude_max=True, width=32),
    mirrored=st.booleans(),
    h=st.integers(1, 20),
    w=st.integers(1, 20),
)
def test_a_crop_is_torchvisions_pad_crop_and_flip(down, right, mirrored, h, w):
    shift = 0.25
    pad_h, pad_w = int(h * shift), int(w * shift)
    image = torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
    drawn = torch.tensor([[down, right, 0.0 if mirrored else 1.0]])
    rows, columns = source_pixels(drawn, Augmentation(True, shift), h, w)
    ours = image[:, rows[0]][:, :, columns[0]]

    padded = transforms.pad(image, [pad_w, pad_h], padding_mode="reflect") if pad_h + pad_w else image
    top, left = int(drawn[0, 0] * (2 * pad_h + 1)), int(drawn[0, 1] * (2 * pad_w + 1))
    theirs = transforms.crop(padded, top, left, h, w)
    if mirrored:
        theirs = transforms.horizontal_flip(theirs)
    assert torch.equal(ours, theirs)


def test_every_place_and_each_side_come_equally_often():
    drawn = torch.rand(40_000, 8, generator=random_stream("test"))
    rows, columns = source_pixels(drawn, Augmentation(True, 1 / 8), 32, 32)
    counts = torch.bincount((rows[:, 16] - 12).long())
    assert len(counts) == 9
    assert ((counts / 40_000 - 1 / 9).abs() < 0.01).all()
    assert abs((columns[:, 15] > columns[:, 16]).float().mean() - 0.5) < 0.01


def test_each_image_is_mirrored_every_other_epoch():
    images = numbered_images(40)

    def mirrored(epoch):
        found = torch.empty(40, dtype=torch.bool)
        for batch, labels in training_batches(images, PLAIN, Augmentation(True, 0.0), 10, 0, epoch):
            for pixels, label in zip(batch.permute(0, 2, 3, 1), labels, strict=True):
                image = images.pixels[label].float()
                assert torch.equal(pixels, image) != torch.equal(pixels, image.flip(1))
                found[label] = torch.equal(pixels, image.flip(1))
        return found

    first, second, third = map(mirrored, range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 10 < first.sum() < 30


def test_images_that_must_not_be_mirrored_are_not():
    _, columns = source_pixels(torch.rand(1000, 8), Augmentation(False, 1 / 8), 32, 32)
    assert (columns[:, 15] < columns[:, 16]).all()


def test_erasing_takes_the_asked_share_and_rectangles_of_the_papers_size():
    drawn = torch.rand(20_000, 8, generator=random_stream("test"))
    erased = erased_pixels(drawn, 0.5, 32, 32)
    chosen = erased.flatten(1).any(1)
    assert abs(chosen.float().mean() - 0.5) < 0.02
    rectangles = erased[chosen]
    heights, widths = rectangles.any(2).sum(1), rectangles.any(1).sum(1)
    assert torch.equal(heights * widths, rectangles.flatten(1).sum(1))
    areas = heights * widths / 1024
    assert areas.min() > 0.01
    assert areas.max() < 0.35
    ratios = (heights / widths)[(heights < 32) & (widths < 32) & (areas > 0.1)]
    assert ratios.min() > 0.27
    assert ratios.max() < 3.7
    assert erased_pixels(drawn, 0.0, 32, 32).sum() == 0


def test_erased_pixels_are_the_mean_and_the_others_stay():
    images = numbered_images(64, 32, 32)
    arguments = {"batch_size": 64, "seed": 3, "epoch": 0}
    (plain, labels), *_ = training_batches(images, PLAIN, Augmentation(True, 1 / 8), **arguments)
    (erased, same), *_ = training_batches(images, PLAIN, Augmentation(True, 1 / 8, erasing=1.0), **arguments)
    assert torch.equal(labels, same)
    differs = plain != erased
    assert differs.flatten(1).any(1).all()
    assert (erased[differs] == 0).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_any_number_of_processes_sees_the_same_images_in_the_same_batches(world_size):
    images = numbered_images(50)
    arguments = (images, PLAIN, Augmentation(True, 1 / 8, 0.5), 12, 5, 2)
    whole = list(training_batches(*arguments))
    parts = [list(training_batches(*arguments, rank, world_size)) for rank in range(world_size)]
    assert len(whole) == 4
    for step, (pixels, labels) in enumerate(whole):
        joined_labels = torch.cat([part[step][1] for part in parts])
        joined = torch.cat([part[step][0] for part in parts])
        order = joined_labels.argsort()
        assert torch.equal(joined_labels[order], labels.sort().values)
        assert torch.equal(joined[order], pixels[labels.argsort()])
        sizes = [len(part[step][1]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_an_epoch_has_each_image_at_most_once_and_epochs_differ():
    images = numbered_images(50)
    epochs = [
        torch.cat([labels for _, labels in training_batches(images, PLAIN, Augmentation(True, 1 / 8), 12, 5, e)])
        for e in (0, 1)
    ]
    for labels in epochs:
        assert len(labels) == len(labels.unique()) == 48
    assert not torch.equal(*epochs)
    again = torch.cat([labels for _, labels in training_batches(images, PLAIN, Augmentation(True, 1 / 8), 12, 5, 1)])
    assert torch.equal(again, epochs[1])


def test_what_is_done_to_an_image_does_not_depend_on_the_batch_size():
    images = numbered_images(48)
    seen = []
    for batch_size in (6, 16):
        batches = list(training_batches(images, PLAIN, Augmentation(True, 1 / 8, 0.5), batch_size, 5, 2))
        labels = torch.cat([labels for _, labels in batches])
        seen.append(torch.cat([pixels for pixels, _ in batches])[labels.argsort()])
    assert torch.equal(*seen)


@given(n=st.integers(1, 40), world_size=st.integers(1, 5), batch_size=st.integers(1, 9))
def test_evaluation_has_each_image_exactly_once_as_it_is(n, world_size, batch_size):
    images = numbered_images(n)
    batches = [
        batch for rank in range(world_size) for batch in evaluation_batches(images, PLAIN, rank, world_size, batch_size)
    ]
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels.sort().values, torch.arange(n))
    pixels = torch.cat([pixels for pixels, _ in batches])[labels.argsort()]
    torch.testing.assert_close(pixels, images.pixels.permute(0, 3, 1, 2).float())
