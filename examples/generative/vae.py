"""Train a variational autoencoder on small images: Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.

    python examples/generative/vae.py                                         # the digits: 1 minute on 2 CPU cores
    python examples/generative/vae.py --data folder:PATH --image-size 32      # PATH/train/<class>/*, PATH/test/...

It prints one line per epoch. At the end it prints the negative ELBO of the test images, the error of their
reconstructions, and that of PCA with as many components. The same seed gives the same result on the same machine. A run
is short and cannot be resumed. It writes pictures of samples (see --pictures-every), reconstructions and
interpolations, metrics.jsonl, summary.json and vae.safetensors to runs/vae/NAME.

The likelihood is a discretised logistic with learned mean and scale for each pixel and channel. It gives each value of
a pixel a probability, so that the ELBO is a bound on the log probability of the stored image.
"""

import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import shared
import torch
import torch.nn.functional as F
from image_grids import draw_grid
from torch import Tensor, nn

from cifarblocks.blocks import BasicBlock
from cifarblocks.training.data.datasets import DataSet, Images
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.command_line import integer

LARGEST_GRADIENT = 100.0  # a batch far from the model's scales has a huge gradient


class Encoder(nn.Sequential):
    """(b, c, h, w) images → (b, 2 · latent), mean and log variance of q(z | x)."""

    def __init__(self, channels: int, size: int, latent: int, width: int) -> None:
        widths = shared.map_widths(size, width)
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            BasicBlock(width, width),
            *(BasicBlock(before, after, stride=2) for before, after in pairwise(widths)),
            nn.Flatten(),
            nn.Linear(widths[-1] * shared.map_sizes(size)[-1] ** 2, 2 * latent),
        )


class Decoder(nn.Sequential):
    """(b, latent) → (b, 2 · c, h, w), mean and log scale of the logistic of each pixel."""

    def __init__(self, channels: int, size: int, latent: int, width: int) -> None:
        super().__init__(*shared.decoder_layers(latent, 2 * channels, size, width))


class VAE(nn.Module):
    """Encoder and decoder; z ~ q(z | x) is drawn between them, with the prior p(z) = N(0, 1).

    Args:
        channels: channels of the images.
        size: height and width of the images.
        values: number of values that a pixel can have.
        latent: numbers in z.
        width: channels of the largest maps.
    """

    def __init__(self, channels: int, size: int, values: int, latent: int, width: int) -> None:
        super().__init__()
        self.values = values
        self.encoder = Encoder(channels, size, latent, width)
        self.decoder = Decoder(channels, size, latent, width)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, h, w) → mean and log variance of z, (b, latent) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 20)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(b, latent) → mean and log scale of the pixels, (b, c, h, w) each."""
        mean, log_scale = self.decoder(z).chunk(2, dim=1)
        return mean, log_scale.clamp(-7, 7)

    def expected_images(self, z: Tensor) -> Tensor:
        """(b, latent) → (b, c, h, w), the expected value of each pixel, from -1 to 1."""
        return expectation(*self.decode(z), self.values)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, h, w) images and (b, latent) normal noise → -log p(x | z) and KL(q ‖ p) in nats, (b,) each."""
        mean, log_variance = self.encode(x)
        z = mean + noise * (log_variance / 2).exp()
        distortion = -log_probability(x, *self.decode(z), self.values).sum((1, 2, 3))
        return distortion, kl_from_standard_normal(mean, log_variance)


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, 1)) in nats, summed over the last dimension (appendix B of the paper)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def log_probability(x: Tensor, mean: Tensor, log_scale: Tensor, values: int) -> Tensor:
    """Log probability of each pixel, one of `values` numbers from -1 to 1, under a discretised logistic.

    A value has the mass of the logistic up to half the distance to its neighbours; the lowest and the highest have the
    whole tail (https://arxiv.org/abs/1701.05517, section 2.1). A value between them has the mass σ(a) - σ(b) =
    σ(a) · σ(-b) · (1 - exp(b - a)). The logarithm of the product stays finite where the difference underflows.
    """
    half = 1 / (values - 1)
    a, b = (x - mean + half) * (-log_scale).exp(), (x - mean - half) * (-log_scale).exp()
    below_a, above_b = F.logsigmoid(a), F.logsigmoid(-b)
    between = below_a + above_b + torch.log(-torch.expm1(-2 * half * (-log_scale).exp()))
    return torch.where(x < -1 + half, below_a, torch.where(x > 1 - half, above_b, between))


def expectation(mean: Tensor, log_scale: Tensor, values: int) -> Tensor:
    """Return the mean of the discretised logistic: the lowest value plus a step for each P(x ≥ next value)."""
    step = 2 / (values - 1)
    expected = torch.full_like(mean, -1)
    for boundary in range(1, values):
        expected += step * torch.sigmoid((mean + 1 - step * (boundary - 0.5)) * (-log_scale).exp())
    return expected


class Components(NamedTuple):
    """Principal components: the mean (d,) of some vectors, and orthonormal directions (d, count) from it."""

    mean: Tensor
    directions: Tensor

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstruct the rows of x (n, d) from their coordinates along the directions."""
        return self.mean + (x - self.mean) @ self.directions @ self.directions.T


def principal_components(x: Tensor, count: int) -> Components:
    """Return the components of the rows of x (n, d) whose variance is largest."""
    mean = x.mean(0)
    return Components(mean, torch.linalg.svd(x - mean, full_matrices=False).Vh[:count].T)


@torch.inference_mode()
def measure(model: VAE, data: DataSet, components: Components, samples: int = 16) -> dict[str, Any]:
    """Score a model on the test images: the ELBO by some samples of z an image, reconstructions by the mean of q.

    The scores have the names of summary.json; squared errors are those of pixels from 0 to 1.
    """
    model.eval()
    device, latent = next(model.parameters()).device, components.directions.shape[1]
    stream, sums = random_stream("measure"), torch.zeros(3, dtype=torch.float64)
    for pixels in data.test.pixels.split(500):
        x = shared.to_numbers(pixels, model.values).to(device)
        for _ in range(samples):
            noise = torch.randn(len(x), latent, generator=stream).to(device)
            sums[:2] += torch.stack([part.double().sum().cpu() for part in model(x, noise)]) / samples
        error = (model.expected_images(model.encode(x)[0]) - x).double() / 2
        sums[2] += error.square().mean((1, 2, 3)).sum().cpu()
    distortion, kl, reconstruction_error = (sums / len(data.test)).tolist()
    test = data.test.pixels.flatten(1).double() / (model.values - 1)
    pca_error = (components.reconstruct(test).clamp(0, 1) - test).square().mean().item()
    dimensions = test.shape[1]
    return {
        "test_images": len(test),
        "likelihood": f"discretised logistic over the {model.values} values of each of the {dimensions} numbers",
        "negative_elbo_nats_per_image": distortion + kl,
        "bits_per_dimension": bits_per_dimension(distortion + kl, dimensions),
        "distortion_nats_per_image": distortion,
        "kl_nats_per_image": kl,
        "independent_pixels_nats_per_image": independent_pixels(data.train.pixels, data.test.pixels, model.values),
        "reconstruction_mean_squared_error": reconstruction_error,
        "pca_mean_squared_error": pca_error,
        "beats_pca": reconstruction_error < pca_error,
    }


def independent_pixels(train: Tensor, test: Tensor, values: int) -> float:
    """Return nats per test image of a baseline: independent pixels with their training counts, plus one of each."""
    seen, asked = train.flatten(1).long().T, test.flatten(1).long().T
    counts = torch.ones(len(seen), values).scatter_add_(1, seen, torch.ones(()).expand(seen.shape))
    return -(counts / (len(train) + values)).double().log().gather(1, asked).sum().item() / len(test)


def train_epoch(
    model: VAE, images: Images, schedule: torch.optim.lr_scheduler.LRScheduler, options: Namespace, epoch: int
) -> Iterator[Tensor]:
    """Take a step for each batch, and yield the means of -log p(x | z) and of KL, in nats per image."""
    model.train()
    device, noises = images.pixels.device, random_stream("noise", options.seed, epoch)
    for batch in shared.shuffled_batches(images, options.batch_size, "order", options.seed, epoch):
        noise = torch.randn(len(batch), options.latent, generator=noises).to(device)
        distortion, kl = model(shared.to_numbers(batch.pixels, model.values), noise)
        schedule.optimizer.zero_grad()
        (distortion + kl).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        schedule.optimizer.step()
        yield torch.stack([distortion.detach().mean(), kl.detach().mean()])
    schedule.step()


def build(options: Namespace, data: DataSet, values: int, device: torch.device) -> shared.Lesson:
    """Make the model, with its training and its measurement on the test images.

    Raises:
        UserError: If PCA cannot have that many components.
    """
    size, channels = data.image_size[0], data.train.pixels.shape[3]
    dimensions = channels * size**2
    if options.latent > min(dimensions, len(data.train)):
        raise UserError(
            f"--latent {options.latent} is more than PCA can have of {len(data.train)} images of {dimensions} numbers"
        )
    arguments = {
        "channels": channels, "size": size, "values": values, "latent": options.latent, "width": options.width
    }  # fmt: skip
    torch.manual_seed(options.seed)
    model = VAE(**arguments).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    adam = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.epochs)
    images = data.train.to(device)

    def draw_and_measure(folder: Path) -> dict[str, Any]:
        components = principal_components(data.train.pixels.flatten(1).double() / (values - 1), options.latent)
        draw_reconstructions(folder / "reconstructions.png", model, data, components, options.seed)
        draw_interpolations(folder / "interpolations.png", model, data)
        return measure(model, data, components)

    return shared.Lesson(
        title=f"vae: {parameters:,} parameters, {options.latent} latent numbers",
        parameters={"parameters": parameters},
        train_epoch=lambda epoch: train_epoch(model, images, schedule, options, epoch),
        losses=("distortion", "kl"),
        line="-ELBO {total:.2f} = {distortion:.2f} + KL {kl:.2f} nats",
        draw_samples=lambda path, epoch: draw_samples(path, model, options, epoch),
        weights="vae",
        model=model,
        arguments=arguments,
        measure=draw_and_measure,
        describe=lambda result: describe(result, options.latent),
    )


def describe(result: dict[str, Any], latent: int) -> str:
    """Return the result, human-readable."""
    beaten = "below" if result["beats_pca"] else "not below"
    return (
        f"test -ELBO {result['negative_elbo_nats_per_image']:.2f} nats per image on {result['test_images']:,} images, "
        f"{result['bits_per_dimension']:.3f} bits per dimension "
        f"(independent pixels: {result['independent_pixels_nats_per_image']:.2f} nats)\n"
        f"test reconstructions: mean squared error {result['reconstruction_mean_squared_error']:.5f}, "
        f"{beaten} PCA's {result['pca_mean_squared_error']:.5f} with {latent} components"
    )


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Convert nats per image to bits per pixel and channel."""
    return nats / dimensions / math.log(2)


@torch.inference_mode()
def draw_samples(path: Path, model: VAE, options: Namespace, epoch: int) -> None:
    """Draw the expected images of 100 samples of the prior, the same in each epoch."""
    z = torch.randn(100, options.latent, generator=random_stream("samples", options.seed))
    pixels = shared.to_pixels(model.eval().expected_images(z.to(next(model.parameters()).device)), model.values).cpu()
    draw_grid(path, pixels.unflatten(0, (10, 10)), model.values, f"samples of the prior, epoch {epoch}", [""] * 10)


@torch.inference_mode()
def draw_reconstructions(
    path: Path, model: VAE, data: DataSet, components: Components, seed: int, count: int = 16
) -> None:
    """Draw test images above their reconstructions by the model and by PCA."""
    order = torch.randperm(len(data.test), generator=random_stream("reconstructions", seed))[:count]
    pixels, device = data.test.pixels[order], next(model.parameters()).device
    z, _ = model.eval().encode(shared.to_numbers(pixels, model.values).to(device))
    ours = shared.to_pixels(model.expected_images(z), model.values).cpu()
    highest = model.values - 1
    theirs = components.reconstruct(pixels.flatten(1).double() / highest).clamp(0, 1).mul(highest).round()
    rows = torch.stack([pixels, ours, theirs.to(torch.uint8).view_as(pixels)])
    latent = components.directions.shape[1]
    draw_grid(path, rows, model.values, f"reconstructions from {latent} numbers", ["test image", "VAE", "PCA"])


@torch.inference_mode()
def draw_interpolations(path: Path, model: VAE, data: DataSet) -> None:
    """Draw interpolations between test images of two classes, on the line between the means of q; at most 10 rows."""
    count = len(data.classes)
    places = [(data.test.labels == label).nonzero().flatten() for label in range(count)]
    first = torch.stack([places[label][0] for label in range(min(count, 10))])
    last = torch.stack([places[(label + 1) % count][-1] for label in range(min(count, 10))])
    begin, end = data.test.pixels[first], data.test.pixels[last]
    device = next(model.parameters()).device
    z_begin, z_end = (model.eval().encode(shared.to_numbers(x, model.values).to(device))[0] for x in (begin, end))
    shares = torch.linspace(0, 1, 9, device=device)
    z = torch.lerp(z_begin.unsqueeze(1), z_end.unsqueeze(1), shares.view(1, -1, 1))  # (rows, 9, latent)
    images = model.expected_images(z.flatten(0, 1))
    between = shared.to_pixels(images, model.values).cpu().unflatten(0, (len(first), -1))
    rows = torch.cat([begin.unsqueeze(1), between, end.unsqueeze(1)], dim=1)
    labels = [f"{data.classes[a]} → {data.classes[b]}" for a, b in data.test.labels[torch.stack([first, last], 1)]]
    columns = ["image", *(f"{share:.3g}" for share in shares.tolist()), "image"]
    draw_grid(path, rows, model.values, "interpolations between test images", labels, columns)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    parser = shared.generative_parser("vae", __doc__, epochs=40, learning_rate=1e-3)
    parser.add_argument("--latent", type=integer(1), default=8, help="numbers in z (default: %(default)s)")
    return shared.run(parser, arguments, build)


if __name__ == "__main__":
    sys.exit(main())
