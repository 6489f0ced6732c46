import json
from argparse import Namespace

import acgan
import pytest
import shared
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cifarblocks.training.data.datasets import DataSet, Images
from cifarblocks.training.data.seeds import random_stream


def small_generator(classes=3):
    return acgan.Generator(classes, channels=1, size=8, noise=5, width=4).eval()


def test_the_losses_are_those_of_section_3():
    source, logits, labels = torch.randn(6), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    probability = 1 / (1 + (-source).exp())
    class_log_likelihood = (logits - logits.logsumexp(1, keepdim=True))[range(6), labels].mean()
    for real, source_likelihood in ((True, probability), (False, 1 - probability)):
        loss = acgan.source_and_class_loss((source, logits), real, labels)
        torch.testing.assert_close(loss, -(source_likelihood.log().mean() + class_log_likelihood))


def test_the_class_changes_every_sample_and_the_noise_does_too():
    generator = small_generator()
    noise = torch.randn(7, 5)
    images = torch.stack([generator(noise, torch.full((7,), label)) for label in range(3)])  # (3, 7, 1, 8, 8)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert ((images[one] - images[other]).abs().amax((1, 2, 3)) > 1e-3).all()
    assert ((images[:, 1:] - images[:, :-1]).abs().amax((2, 3, 4)) > 1e-3).all()


def test_what_is_asked_for_reaches_the_generator_by_the_class_loss():
    """With one requested class, only the weights of that class have a gradient."""
    generator, discriminator = small_generator(), acgan.Discriminator(3, channels=1, size=8, width=4).eval()
    asked = torch.ones(4, dtype=torch.long)
    acgan.source_and_class_loss(discriminator(generator(torch.randn(4, 5), asked)), True, asked).backward()
    of_classes = generator.layers[0].weight.grad[:, 5:].abs().sum(0)
    assert of_classes[1] > 0
    assert of_classes[0] == of_classes[2] == 0


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 12), (3, 32), (3, 40)])
def test_shapes(channels, size):
    generator = acgan.Generator(2, channels, size, noise=3, width=4)
    images = generator(torch.randn(2, 3), torch.tensor([0, 1]))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    source, logits = acgan.Discriminator(2, channels, size, width=4)(images)
    assert (source.shape, logits.shape) == ((2,), (2, 2))


def test_each_network_learns_from_its_own_loss_alone(monkeypatch):
    """Compare an epoch of two batches with gradient steps that are written out."""
    images = Images(torch.randint(17, (8, 8, 8, 1), dtype=torch.uint8), torch.arange(8) % 3)
    options = Namespace(batch_size=4, seed=0)

    def networks():
        torch.manual_seed(1)
        discriminator = acgan.Discriminator(3, channels=1, size=8, width=4)
        discriminator.features[-1].p = 0.0
        generator = acgan.Generator(3, channels=1, size=8, noise=5, width=4)
        return generator, discriminator

    generator, discriminator = networks()
    sgd = tuple(torch.optim.SGD(network.parameters(), 0.1) for network in (discriminator, generator))
    for _ in acgan.train_epoch(generator, AveragedModel(generator), discriminator, sgd, images, 17, options, 0):
        pass

    ours, judge = networks()
    stream = random_stream("noise", 0, 0)

    def step(network, loss):
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.1 * gradient

    for batch in shared.shuffled_batches(images, 4, "order", 0, 0):
        asked = torch.randint(3, (4,), generator=stream)
        fake = ours(torch.randn(4, 5, generator=stream), asked)
        of_real = judge(shared.to_numbers(batch.pixels, 17))
        of_fake = judge(fake.detach())
        likelihood = of_real[0].sigmoid().log().mean() + (-of_fake[0]).sigmoid().log().mean()
        named = of_real[1].log_softmax(1)[range(4), batch.labels].mean()
        named = named + of_fake[1].log_softmax(1)[range(4), asked].mean()
        step(judge, -(likelihood + named))
        source, logits = judge(fake)
        step(ours, -(source.sigmoid().log().mean() + logits.log_softmax(1)[range(4), asked].mean()))
    for network, copy in ((generator, ours), (discriminator, judge)):
        for one, other in zip(network.parameters(), copy.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def shades():
    """Two classes of noise that are easy to tell apart: dark and light."""
    labels = torch.arange(128) % 2
    pixels = (torch.randint(8, (128, 8, 8, 1)) + 9 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    part = Images(pixels, labels)
    return DataSet("shades", part, part, ["dark", "light"], mirror=True)


class Painter(nn.Module):
    """A generator that paints noise of the shade that it makes of a label."""

    def __init__(self, shade_of):
        super().__init__()
        self.place, self.shade_of = nn.Parameter(torch.zeros(())), shade_of

    def forward(self, noise, labels):
        return (noise.view(-1, 1, 8, 8).sigmoid() + self.shade_of(labels).view(-1, 1, 1, 1) - 1).clamp(-1, 1)


@pytest.mark.parametrize(
    ("shade_of", "named", "learnt"),
    [
        (lambda labels: labels, 100, 100),
        (lambda labels: 1 - labels, 0, 0),
        (torch.zeros_like, 50, 50),
    ],
    ids=["as asked", "the other", "always dark"],
)
def test_the_checks_see_a_good_generator_and_bad_ones(monkeypatch, shade_of, named, learnt):
    monkeypatch.setattr(acgan, "CHECK_SAMPLES", 64)
    monkeypatch.setattr(acgan, "CHECK_EPOCHS", 4)
    options = Namespace(noise=64, seed=0)
    result = acgan.check(Painter(shade_of), shades(), 17, options, torch.device("cpu"))
    assert result["test_top1_trained_on_images"] == 100
    assert result["samples_named_as_asked"] == pytest.approx(named, abs=1)
    assert result["test_top1_trained_on_samples"] == pytest.approx(learnt, abs=5)


@pytest.mark.slow
def test_samples_of_the_digits_are_what_was_asked_for_and_teach_a_classifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert acgan.main(["--name", "digits"]) == 0
    summary = json.loads((tmp_path / "runs" / "acgan" / "digits" / "summary.json").read_text())
    assert (summary["samples"], summary["test_images"]) == (5000, 360)
    assert summary["samples_named_as_asked"] >= 90
    assert summary["test_top1_trained_on_samples"] >= 85
