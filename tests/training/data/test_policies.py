import pytest
import torch
from torchvision.transforms import v2

from cifarblocks.training.data.batches import Augmentation, Normalisation, training_batches
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.data.policies import augment_each, build_policy

PLAIN = Normalisation([0.0] * 3, [1 / 255] * 3, torch.device("cpu"), torch.float32)


def test_the_policies_are_torchvisions_with_these_numbers():
    assert isinstance(build_policy("trivial"), v2.TrivialAugmentWide)
    policy = build_policy("rand-3-12")
    assert isinstance(policy, v2.RandAugment)
    assert (policy.num_ops, policy.magnitude) == (3, 12)
    assert build_policy("none") is None


@pytest.mark.parametrize("name", ["trivial", "rand-2-15"])
def test_an_image_is_augmented_as_its_seed_says(name):
    pixels = torch.randint(0, 256, (12, 16, 20, 3), dtype=torch.uint8)
    seeds = torch.arange(12) * 2**40
    torch.manual_seed(3)
    augmented = augment_each(pixels, build_policy(name), seeds)
    next_number = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(next_number, torch.rand(1)), "the global generator was used up"
    for image, ours, seed in zip(pixels, augmented, seeds.tolist(), strict=True):
        torch.manual_seed(seed)
        theirs = build_policy(name)(image.permute(2, 0, 1))
        assert torch.equal(ours.permute(2, 0, 1), theirs)
    assert (augmented != pixels).flatten(1).any(1).sum() > 6


@pytest.mark.parametrize("world_size", [2, 3])
def test_it_depends_on_seed_epoch_and_image_alone(world_size):
    images = Images(torch.randint(0, 256, (50, 6, 8, 3), dtype=torch.uint8), torch.arange(50))

    def seen(batch_size, epoch, world_size):
        found = {}
        for rank in range(world_size):
            arguments = (
                Augmentation(True, 0.2, policy=build_policy("trivial")),
                batch_size,
                5,
                epoch,
                rank,
                world_size,
            )
            for pixels, labels in training_batches(images, PLAIN, *arguments):
                found |= {int(label): image for label, image in zip(labels, pixels, strict=True)}
        return found

    one, many, later = seen(10, 2, 1), seen(25, 2, world_size), seen(10, 3, 1)
    assert all(torch.equal(one[label], many[label]) for label in range(50))
    assert sum(torch.equal(one[label], later[label]) for label in range(50)) < 5
