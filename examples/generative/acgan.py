"""Train a class-conditional GAN on small images: AC-GAN, Odena et al. 2017, https://arxiv.org/abs/1610.09585.

    python examples/generative/acgan.py                                       # the digits: 3 minutes on 2 CPU cores
    python examples/generative/acgan.py --data folder:PATH --image-size 32    # PATH/train/<class>/*, PATH/test/...

It prints one line per epoch. At the end it checks the samples with two classifiers, each a resnet_20. One is trained on
real images and scored on samples. The other is trained only on samples and scored on real test images. The same seed
gives the same result on the same machine. A run is short and cannot be resumed. It writes pictures of samples with one
row per class (see --pictures-every), metrics.jsonl, summary.json and generator.safetensors to runs/acgan/NAME.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import shared
import torch
import torch.nn.functional as F
from image_grids import draw_grid
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import cifarblocks
from cifarblocks.blocks import BasicBlock
from cifarblocks.training.data.datasets import DataSet, Images
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.command_line import integer, number

CLASSIFIER, CHECK_SAMPLES, CHECK_EPOCHS = "resnet_20", 5000, 20


class Generator(nn.Module):
    """(b, noise) normal noise and (b,) classes → (b, c, h, w) images from -1 to 1.

    Args:
        classes: number of classes.
        channels: channels of the images.
        size: height and width of the images.
        noise: numbers drawn for an image.
        width: channels of the largest maps.
    """

    def __init__(self, classes: int, channels: int, size: int, noise: int, width: int) -> None:
        super().__init__()
        self.classes, self.noise = classes, noise
        self.layers = nn.Sequential(*shared.decoder_layers(noise + classes, channels, size, width), nn.Tanh())

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        asked = F.one_hot(labels, self.classes).to(noise.dtype)
        return self.layers(torch.cat([noise, asked], dim=1))


class Discriminator(nn.Module):
    """(b, c, h, w) images → (b,) logits of being real, and (b, classes) logits of the class."""

    def __init__(self, classes: int, channels: int, size: int, width: int) -> None:
        super().__init__()
        widths = shared.map_widths(size, width)
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            *(BasicBlock(before, after, stride=2) for before, after in pairwise(widths)),
            nn.Flatten(),
            nn.Dropout(0.5),
        )
        features = widths[-1] * shared.map_sizes(size)[-1] ** 2
        self.source, self.label = nn.Linear(features, 1), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.source(features).squeeze(1), self.label(features)


def train_epoch(
    generator: Generator,
    average: AveragedModel,
    discriminator: Discriminator,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    images: Images,
    values: int,
    options: Namespace,
    epoch: int,
) -> Iterator[Tensor]:
    """Take a step of each network for each batch, and yield the losses of discriminator and generator (section 3)."""
    generator.train()
    discriminator.train()
    device, stream = images.pixels.device, random_stream("noise", options.seed, epoch)
    for batch in shared.shuffled_batches(images, options.batch_size, "order", options.seed, epoch):
        real = shared.to_numbers(batch.pixels, values)
        asked = torch.randint(generator.classes, (len(real),), generator=stream).to(device)
        fake = generator(torch.randn(len(real), generator.noise, generator=stream).to(device), asked)

        loss_real = source_and_class_loss(discriminator(real), True, batch.labels)
        loss_fake = source_and_class_loss(discriminator(fake.detach()), False, asked)
        optimizers[0].zero_grad()
        (loss_real + loss_fake).backward()
        optimizers[0].step()

        loss = source_and_class_loss(discriminator(fake), True, asked)  # the generator's target is "real"
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        average.update_parameters(generator)
        yield torch.stack([(loss_real + loss_fake).detach(), loss.detach()])


def source_and_class_loss(outputs: tuple[Tensor, Tensor], real: bool, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the source plus that of the class, -L_S - L_C of section 3."""
    source, logits = outputs
    return F.binary_cross_entropy_with_logits(source, torch.full_like(source, real)) + F.cross_entropy(logits, labels)


@torch.inference_mode()
def sample(generator: nn.Module, noise: Tensor, labels: Tensor, values: int) -> Images:
    """Return one sample for each label, as pixels, on the CPU."""
    device = next(generator.parameters()).device
    generator.eval()
    parts = [
        shared.to_pixels(generator(some.to(device), asked.to(device)), values).cpu()
        for some, asked in zip(noise.split(500), labels.split(500), strict=True)
    ]
    return Images(torch.cat(parts), labels)


def train_classifier(images: Images, values: int, classes: int, seed: int, device: torch.device) -> nn.Module:
    """Train a named network of cifarblocks with AdamW and a one-cycle schedule."""
    torch.manual_seed(seed)
    _, size, _, channels = images.pixels.shape
    model = cifarblocks.create_model(CLASSIFIER, num_classes=classes, in_channels=channels, image_size=size).to(device)
    batch_size = min(64, len(images))
    optimizer, steps = torch.optim.AdamW(model.parameters(), weight_decay=0.05), len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=CHECK_EPOCHS * steps)
    for epoch in range(CHECK_EPOCHS):
        for batch in shared.shuffled_batches(images.to(device), batch_size, "classifier", seed, epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(shared.to_numbers(batch.pixels, values)), batch.labels).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, values: int) -> float:
    """Return the share of correctly predicted images, in percent."""
    device = next(model.parameters()).device
    hits = sum(
        int((model(shared.to_numbers(pixels, values).to(device)).argmax(1).cpu() == labels).sum())
        for pixels, labels in zip(images.pixels.split(500), images.labels.split(500), strict=True)
    )
    return 100 * hits / len(images)


def build(options: Namespace, data: DataSet, values: int, device: torch.device) -> shared.Lesson:
    """Make both networks, with their training and the check of the averaged generator's samples.

    Raises:
        UserError: If there is only one class.
    """
    size, channels, classes = data.image_size[0], data.train.pixels.shape[3], len(data.classes)
    if classes < 2:
        raise UserError(f"--data {options.data} has {classes} class; an AC-GAN needs at least two")
    arguments = {
        "classes": classes, "channels": channels, "size": size, "noise": options.noise, "width": options.width
    }  # fmt: skip
    torch.manual_seed(options.seed)
    generator = Generator(**arguments).to(device)
    discriminator = Discriminator(classes, channels, size, options.width).to(device)
    # Samples of the averaged generator are better and change less from step to step: arXiv 1806.04498.
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(options.average), use_buffers=True)
    optimizers = (
        torch.optim.Adam(discriminator.parameters(), lr=options.lr, betas=(0.5, 0.999)),
        torch.optim.Adam(generator.parameters(), lr=options.lr, betas=(0.5, 0.999)),
    )
    images = data.train.to(device)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (generator, discriminator)]
    return shared.Lesson(
        title=f"acgan: generator of {sizes[0]:,} parameters, discriminator of {sizes[1]:,}",
        parameters={"generator_parameters": sizes[0], "discriminator_parameters": sizes[1]},
        train_epoch=lambda epoch: train_epoch(
            generator, average, discriminator, optimizers, images, values, options, epoch
        ),
        losses=("discriminator_loss", "generator_loss"),
        line="loss: discriminator {discriminator_loss:.3f}, generator {generator_loss:.3f}",
        draw_samples=lambda path, epoch: draw_samples(path, average, data.classes, values, options, epoch),
        weights="generator",
        model=average.module,
        arguments=arguments,
        measure=lambda _: check(average, data, values, options, device),
        describe=describe,
    )


def check(generator: nn.Module, data: DataSet, values: int, options: Namespace, device: torch.device) -> dict[str, Any]:
    """Check that samples have the requested class and are varied enough to learn from; return accuracies in percent.

    Both classifiers and the GAN are trained without test images.
    """
    classes = len(data.classes)
    asked = torch.arange(CHECK_SAMPLES) % classes
    noise = torch.randn(CHECK_SAMPLES, options.noise, generator=random_stream("check", options.seed))
    samples = sample(generator, noise, asked, values)
    print(f"check: training a classifier on the images and one on {CHECK_SAMPLES:,} samples", flush=True)
    of_real = train_classifier(data.train, values, classes, options.seed, device)
    of_samples = train_classifier(samples, values, classes, options.seed, device)
    return {
        "classifier": CLASSIFIER,
        "samples": CHECK_SAMPLES,
        "test_images": len(data.test),
        "samples_named_as_asked": accuracy(of_real, samples, values),
        "test_top1_trained_on_samples": accuracy(of_samples, data.test, values),
        "test_top1_trained_on_images": accuracy(of_real, data.test, values),
    }


def describe(result: dict[str, Any]) -> str:
    """Return the checks, human-readable."""
    return (
        f"{result['classifier']} trained on real images: {result['samples_named_as_asked']:.2f} % of "
        f"{result['samples']:,} samples have the requested class\n"
        f"{result['classifier']} trained only on samples: {result['test_top1_trained_on_samples']:.2f} % top-1 on "
        f"{result['test_images']:,} test images (on real images: {result['test_top1_trained_on_images']:.2f} %)"
    )


def draw_samples(
    path: Path, generator: nn.Module, classes: list[str], values: int, options: Namespace, epoch: int
) -> None:
    """Draw ten samples of each class in a row, with the same noise in a column, for at most 20 classes."""
    shown = classes[:20]
    noise = torch.randn(10, options.noise, generator=random_stream("samples", options.seed)).repeat(len(shown), 1)
    asked = torch.arange(len(shown)).repeat_interleave(10)
    pixels = sample(generator, noise, asked, values).pixels.unflatten(0, (len(shown), 10))
    draw_grid(path, pixels, values, f"samples, one row per class, epoch {epoch}", shown)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    parser = shared.generative_parser("acgan", __doc__, epochs=60, learning_rate=2e-4)
    parser.add_argument("--noise", type=integer(1), default=64,
        help="random numbers per sample (default: %(default)s)")  # fmt: skip
    parser.add_argument("--average", type=number(0, 0.9999), default=0.99,
        help="decay of the averaged generator per step (default: %(default)s)")  # fmt: skip
    return shared.run(parser, arguments, build)


if __name__ == "__main__":
    sys.exit(main())
