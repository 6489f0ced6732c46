import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from cifarblocks.training.data.batches import Augmentation, Normalisation, training_batches
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.data.mixing import Mix, Mixing, cut_box, draw_mix

PLAIN = Normalisation([0.0] * 3, [1 / 255] * 3, torch.device("cpu"), torch.float64)


def rolled(batch):
    """Each image's partner as torchvision chooses it: the one before it."""
    return tuple(tensor.roll(1, 0) for tensor in batch)


def torchvisions(transform, share, batch, **parameters):
    """Return torchvision's transform of a batch with these random numbers."""
    parameters = {"lam": share, "labels": batch[1], "batch_size": len(batch[0]), **parameters}
    transform._labels_getter = lambda inputs: inputs[1]
    images = transform.transform(batch[0], parameters)
    return images, transform.transform(batch[1], parameters)


def a_batch(n=6, classes=5):
    return torch.rand(n, 3, 8, 10, dtype=torch.float64), torch.randint(classes, (n,))


def test_mixup_is_torchvisions():
    batch = a_batch()
    mixed, targets = Mix(torch.arange(6), 0.3, None, 5)(batch, rolled(batch))
    theirs, their_targets = torchvisions(v2.MixUp(num_classes=5), 0.3, batch)
    torch.testing.assert_close(mixed, theirs)
    torch.testing.assert_close(targets.float(), their_targets)


def test_cutmix_is_torchvisions():
    batch = a_batch()
    box = top, bottom, left, right = 2, 7, 1, 4
    share = 1 - 15 / 80
    mixed, targets = Mix(torch.arange(6), share, box, 5)(batch, rolled(batch))
    parameters = {"box": (left, top, right, bottom), "lam_adjusted": share}
    theirs, their_targets = torchvisions(v2.CutMix(num_classes=5), share, batch, **parameters)
    assert torch.equal(mixed, theirs)
    torch.testing.assert_close(targets.float(), their_targets)


def test_the_cut_has_the_area_that_is_drawn_where_it_fits_and_the_share_that_it_has():
    assert cut_box(0.75, 0.5, 0.5, 32, 64) == (8, 24, 16, 48)
    for step in range(200):
        mix = draw_mix(Mixing(0, 1.0, 1, 5), 4, 32, 16, (0, 0, step))
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 16
        assert mix.share == 1 - (bottom - top) * (right - left) / 512


def test_shares_follow_the_beta_distribution_and_batches_are_mixed_as_often_as_asked():
    mixes = [draw_mix(Mixing(0.4, 0, 0.5, 5), 4, 8, 8, (0, 1, step)) for step in range(4000)]
    shares = torch.tensor([mix.share for mix in mixes if mix])
    assert abs(len(shares) / 4000 - 0.5) < 0.03
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(shares.mean() - 0.5) < 0.03
    assert shares.var().item() == pytest.approx(1 / (4 * 1.8), rel=0.06)
    both = [draw_mix(Mixing(1, 1, 1, 5), 4, 8, 8, (0, 1, step)).box is None for step in range(1000)]
    assert abs(sum(both) / 1000 - 0.5) < 0.06


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0, 0.7, 50), Mixing(0, 1, 1, 50), Mixing(0.4, 1, 1, 50)])
@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_mixes_the_same(mixing, world_size):
    images = Images(torch.randint(0, 256, (50, 6, 8, 3), dtype=torch.uint8), torch.arange(50))
    arguments = (images, PLAIN, Augmentation(True, 1 / 8, 0.5, mixing=mixing), 12, 5, 2)
    parts = [list(training_batches(*arguments, rank, world_size)) for rank in range(world_size)]
    for step, (pixels, targets) in enumerate(training_batches(*arguments)):
        for rank in range(world_size):
            assert torch.equal(parts[rank][step][0], pixels[rank::world_size])
            assert torch.equal(parts[rank][step][1], targets[rank::world_size])


def test_an_epoch_begun_in_the_middle_is_the_rest_of_it():
    images = Images(torch.randint(0, 256, (50, 6, 8, 3), dtype=torch.uint8), torch.arange(50))
    augmentation = Augmentation(True, 1 / 8, 0.5, v2.TrivialAugmentWide(), Mixing(0.4, 1, 0.8, 50))
    arguments = (images, PLAIN, augmentation, 12, 5, 2)
    whole = list(training_batches(*arguments))
    rest = list(training_batches(*arguments, first_step=3))
    assert len(rest) == 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest[0], whole[3], strict=True))


def test_mixed_labels_are_probabilities_of_the_loss():
    """The loss of mixed labels is the mix of the two losses, as the papers have it."""
    batch = a_batch()
    logits = torch.randn(6, 5, dtype=torch.float64)
    _, targets = Mix(torch.arange(6), 0.3, None, 5)(batch, rolled(batch))
    expected = 0.3 * F.cross_entropy(logits, batch[1]) + 0.7 * F.cross_entropy(logits, batch[1].roll(1))
    torch.testing.assert_close(F.cross_entropy(logits, targets), expected)
