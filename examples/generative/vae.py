"""Train a variational autoencoder on small images: Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.

    python examples/vae.py                                                   # the digits: 1 minute on 2 CPU cores
    python examples/vae.py --data folder:PATH --image-size 32 --latent 32    # PATH/train/<class>/*, PATH/test/<class>/*

It prints a line an epoch and, at the end, the negative ELBO of the test images and the error of their
reconstructions beside that of PCA with as many components. The same seed gives the same result on the same machine.
A run is short and is not resumed. In runs/vae/NAME it leaves pictures of samples (every tenth epoch),
reconstructions and interpolations, metrics.jsonl, summary.json and vae.safetensors.

The likelihood is a discretised logistic of learned mean and scale for each pixel and channel: a probability of each of
the values that a pixel can have, so that the ELBO is a bound on the log probability of the image as it is stored.
"""

import json
import math
import sys
import time
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save
from shared import (
    generative_parser,
    load_pixels,
    map_sizes,
    map_widths,
    open_new_run,
    run,
    shuffled_batches,
    to_numbers,
    to_pixels,
)
from torch import Tensor, nn

from cifarblocks.blocks import BasicBlock
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.data.datasets import DataSet, Images
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.options.command_line import integer
from cifarblocks.training.pictures.image_grids import draw_grid
from cifarblocks.training.run_folder import folder as runs

LARGEST_GRADIENT = 100.0  # a batch far from the model's scales would throw it off


class Encoder(nn.Sequential):
    """(b, c, h, w) images → (b, 2 · latent), mean and log variance of q(z | x)."""

    def __init__(self, channels: int, size: int, latent: int, width: int) -> None:
        widths = map_widths(size, width)
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            BasicBlock(width, width),
            *(BasicBlock(before, after, stride=2) for before, after in pairwise(widths)),
            nn.Flatten(),
            nn.Linear(widths[-1] * map_sizes(size)[-1] ** 2, 2 * latent),
        )


class Decoder(nn.Sequential):
    """(b, latent) → (b, 2 · c, h, w), mean and log scale of the logistic of each pixel."""

    def __init__(self, channels: int, size: int, latent: int, width: int) -> None:
        widths, smallest = map_widths(size, width)[::-1], map_sizes(size)[-1]
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Upsample(scale_factor=2), BasicBlock(before, after)]
        super().__init__(
            nn.Linear(latent, widths[0] * smallest**2),
            nn.Unflatten(1, (widths[0], smallest, smallest)),
            BasicBlock(widths[0], widths[0]),
            *blocks,
            nn.Conv2d(width, 2 * channels, 3, padding=1),
        )


class VAE(nn.Module):
    """The two networks; between them z ~ q(z | x), with the prior p(z) = N(0, 1).

    Args:
        channels: of the images.
        size: height and width of the images.
        values: how many values a pixel can have.
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
    """KL(N(mean, variance) ‖ N(0, 1)) in nats, summed over the last dimension (appendix B of the paper)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def log_probability(x: Tensor, mean: Tensor, log_scale: Tensor, values: int) -> Tensor:
    """Log probability of each pixel, one of `values` numbers from -1 to 1, under a discretised logistic.

    A value has the mass of the logistic half-way to its neighbours; the lowest and the highest have all beyond them
    (https://arxiv.org/abs/1701.05517, section 2.1). Of a value between, σ(a) - σ(b) = σ(a) · σ(-b) · (1 - exp(b - a)),
    whose logarithm stays finite where the difference underflows.
    """
    half = 1 / (values - 1)
    a, b = (x - mean + half) * (-log_scale).exp(), (x - mean - half) * (-log_scale).exp()
    below_a, above_b = F.logsigmoid(a), F.logsigmoid(-b)
    between = below_a + above_b + torch.log(-torch.expm1(-2 * half * (-log_scale).exp()))
    return torch.where(x < -1 + half, below_a, torch.where(x > 1 - half, above_b, between))


def expectation(mean: Tensor, log_scale: Tensor, values: int) -> Tensor:
    """Mean of the discretised logistic: the lowest value, and a step up for each P(x at least the next)."""
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
        """The rows of x (n, d) from as many numbers as there are directions."""
        return self.mean + (x - self.mean) @ self.directions @ self.directions.T


def principal_components(x: Tensor, count: int) -> Components:
    """Those of the rows of x (n, d) whose variance is largest."""
    mean = x.mean(0)
    return Components(mean, torch.linalg.svd(x - mean, full_matrices=False).Vh[:count].T)


class Scores(NamedTuple):
    """Over the test images: the bound and its two parts in nats an image, mean squared errors of pixels from 0 to 1."""

    negative_elbo: float
    distortion: float
    kl: float
    reconstruction_error: float
    pca_error: float
    independent_pixels: float


@torch.inference_mode()
def measure(model: VAE, data: DataSet, components: Components, samples: int = 16) -> Scores:
    """Score a model on the test images: the ELBO by some samples of z an image, reconstructions by the mean of q."""
    model.eval()
    device, latent = next(model.parameters()).device, components.directions.shape[1]
    stream, sums = random_stream("measure"), torch.zeros(3, dtype=torch.float64)
    for pixels in data.test.pixels.split(500):
        x = to_numbers(pixels, model.values).to(device)
        for _ in range(samples):
            noise = torch.randn(len(x), latent, generator=stream).to(device)
            sums[:2] += torch.stack([part.double().sum().cpu() for part in model(x, noise)]) / samples
        error = (model.expected_images(model.encode(x)[0]) - x).double() / 2
        sums[2] += error.square().mean((1, 2, 3)).sum().cpu()
    distortion, kl, reconstruction_error = (sums / len(data.test)).tolist()
    test = data.test.pixels.flatten(1).double() / (model.values - 1)
    return Scores(
        distortion + kl,
        distortion,
        kl,
        reconstruction_error,
        (components.reconstruct(test).clamp(0, 1) - test).square().mean().item(),
        independent_pixels(data.train.pixels, data.test.pixels, model.values),
    )


def independent_pixels(train: Tensor, test: Tensor, values: int) -> float:
    """Nats a test image if each pixel had the shares of its values in training, one of each added: what to beat."""
    seen, asked = train.flatten(1).long().T, test.flatten(1).long().T
    counts = torch.ones(len(seen), values).scatter_add_(1, seen, torch.ones(()).expand(seen.shape))
    return -(counts / (len(train) + values)).double().log().gather(1, asked).sum().item() / len(test)


def train_epoch(
    model: VAE, images: Images, optimizer: torch.optim.Optimizer, options: Namespace, epoch: int
) -> tuple[float, float]:
    """Take a step for each batch: the mean of -log p(x | z) and of KL, in nats an image."""
    model.train()
    device, noises = images.pixels.device, random_stream("noise", options.seed, epoch)
    sums, batches = torch.zeros(2, dtype=torch.float64), 0
    for batch in shuffled_batches(images, options.batch_size, "order", options.seed, epoch):
        noise = torch.randn(len(batch), options.latent, generator=noises).to(device)
        distortion, kl = model(to_numbers(batch.pixels, model.values), noise)
        optimizer.zero_grad()
        (distortion + kl).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        sums += torch.stack([distortion.detach().mean(), kl.detach().mean()]).double().cpu()
        batches += 1
    first, second = (sums / batches).tolist()
    return first, second


def train(options: Namespace) -> None:
    """Train for some epochs, measure the last weights on the test images, and write everything down."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processes = Processes(0, 1, device)
    data, values = load_pixels(options)
    size, channels = data.image_size[0], data.train.pixels.shape[3]
    dimensions = channels * size**2
    if options.latent > min(dimensions, len(data.train)):
        raise UserError(
            f"--latent {options.latent} is more than PCA can have of {len(data.train)} images of {dimensions} numbers"
        )
    folder, record = open_new_run(options, data, processes)
    arguments = {
        "channels": channels, "size": size, "values": values, "latent": options.latent, "width": options.width
    }  # fmt: skip
    torch.manual_seed(options.seed)
    model = VAE(**arguments).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    images = data.train.to(device)
    processes.print(
        f"vae: {sum(p.numel() for p in model.parameters()):,} parameters, {options.latent} latent numbers\n"
        f"{data.name}: {len(data.train):,} images of {size}x{size}x{channels} to train, {len(data.test):,} to test"
    )
    history: list[dict[str, Any]] = []
    for epoch in range(options.epochs):
        began = time.perf_counter()
        distortion, kl = train_epoch(model, images, optimizer, options, epoch)
        schedule.step()
        if not math.isfinite(distortion + kl):
            raise RunError(
                f"the loss is {distortion + kl} in epoch {epoch + 1}; try a smaller --lr than {options.lr:g}"
            )
        seconds = round(time.perf_counter() - began, 3)
        history.append({"epoch": epoch + 1, "distortion": distortion, "kl": kl, "seconds": seconds})
        processes.print(
            f"epoch {epoch + 1}/{options.epochs}  -ELBO {distortion + kl:.2f} = {distortion:.2f} + KL {kl:.2f} nats"
        )
        runs.write_metrics(folder, history)
        if (epoch + 1) % options.pictures_every == 0 or epoch + 1 == options.epochs:
            draw_samples(folder / f"samples_{epoch + 1:04}.png", model, options, epoch + 1)

    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "vae.safetensors", save(tensors, metadata={"arguments": json.dumps(arguments)}))
    components = principal_components(data.train.pixels.flatten(1).double() / (values - 1), options.latent)
    draw_reconstructions(folder / "reconstructions.png", model, data, components, options.seed)
    draw_interpolations(folder / "interpolations.png", model, data)
    scores = measure(model, data, components)
    runs.write_json(folder / runs.SUMMARY, summary(record, model, data, history, scores))
    processes.print(describe(scores, dimensions, len(data.test), options.latent))
    processes.print("wrote", *sorted(folder.iterdir()), sep="\n  ")


def summary(
    record: dict[str, Any], model: VAE, data: DataSet, history: list[dict[str, Any]], scores: Scores
) -> dict[str, Any]:
    """The result of a run, and what it was made of."""
    dimensions = data.test.pixels[0].numel()
    return {
        "model": "vae",
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": data.name,
        "epochs": len(history),
        "training_images": len(data.train),
        "test_images": len(data.test),
        "likelihood": f"discretised logistic over the {model.values} values of each of {dimensions} numbers an image",
        "negative_elbo_nats_per_image": scores.negative_elbo,
        "bits_per_dimension": bits_per_dimension(scores.negative_elbo, dimensions),
        "distortion_nats_per_image": scores.distortion,
        "kl_nats_per_image": scores.kl,
        "independent_pixels_nats_per_image": scores.independent_pixels,
        "reconstruction_mean_squared_error": scores.reconstruction_error,
        "pca_mean_squared_error": scores.pca_error,
        "beats_pca": scores.reconstruction_error < scores.pca_error,
        "seconds": round(sum(line["seconds"] for line in history), 1),
        "seed": record["options"]["seed"],
        "versions": record["versions"],
        "configuration": record,
    }


def describe(scores: Scores, dimensions: int, images: int, latent: int) -> str:
    """The scores, for people."""
    beaten = "below" if scores.reconstruction_error < scores.pca_error else "not below"
    return (
        f"test -ELBO {scores.negative_elbo:.2f} nats an image on {images:,} images, "
        f"{bits_per_dimension(scores.negative_elbo, dimensions):.3f} bits per dimension "
        f"(independent pixels: {scores.independent_pixels:.2f} nats)\n"
        f"test reconstructions: mean squared error {scores.reconstruction_error:.5f}, "
        f"{beaten} PCA's {scores.pca_error:.5f} with {latent} components"
    )


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Nats an image → bits a pixel and channel."""
    return nats / dimensions / math.log(2)


@torch.inference_mode()
def draw_samples(path: Path, model: VAE, options: Namespace, epoch: int) -> None:
    """Expected images of 100 draws of the prior, the same in each epoch."""
    z = torch.randn(100, options.latent, generator=random_stream("samples", options.seed))
    pixels = to_pixels(model.eval().expected_images(z.to(next(model.parameters()).device)), model.values).cpu()
    draw_grid(path, pixels.unflatten(0, (10, 10)), model.values, f"samples of the prior, epoch {epoch}", [""] * 10)


@torch.inference_mode()
def draw_reconstructions(
    path: Path, model: VAE, data: DataSet, components: Components, seed: int, count: int = 16
) -> None:
    """Test images above what the model and PCA make of them."""
    order = torch.randperm(len(data.test), generator=random_stream("reconstructions", seed))[:count]
    pixels, device = data.test.pixels[order], next(model.parameters()).device
    z, _ = model.eval().encode(to_numbers(pixels, model.values).to(device))
    ours = to_pixels(model.expected_images(z), model.values).cpu()
    highest = model.values - 1
    theirs = components.reconstruct(pixels.flatten(1).double() / highest).clamp(0, 1).mul(highest).round()
    rows = torch.stack([pixels, ours, theirs.to(torch.uint8).view_as(pixels)])
    latent = components.directions.shape[1]
    draw_grid(path, rows, model.values, f"reconstructions from {latent} numbers", ["test image", "VAE", "PCA"])


@torch.inference_mode()
def draw_interpolations(path: Path, model: VAE, data: DataSet) -> None:
    """From a test image of a class to one of the next, along the line between the means of their q; 10 rows at most."""
    count = len(data.classes)
    places = [(data.test.labels == label).nonzero().flatten() for label in range(count)]
    first = torch.stack([places[label][0] for label in range(min(count, 10))])
    last = torch.stack([places[(label + 1) % count][-1] for label in range(min(count, 10))])
    begin, end = data.test.pixels[first], data.test.pixels[last]
    device = next(model.parameters()).device
    z_begin, z_end = (model.eval().encode(to_numbers(x, model.values).to(device))[0] for x in (begin, end))
    shares = torch.linspace(0, 1, 9, device=device)
    z = torch.lerp(z_begin.unsqueeze(1), z_end.unsqueeze(1), shares.view(1, -1, 1))  # (rows, 9, latent)
    between = to_pixels(model.expected_images(z.flatten(0, 1)), model.values).cpu().unflatten(0, (len(first), -1))
    rows = torch.cat([begin.unsqueeze(1), between, end.unsqueeze(1)], dim=1)
    labels = [f"{data.classes[a]} → {data.classes[b]}" for a, b in data.test.labels[torch.stack([first, last], 1)]]
    columns = ["image", *(f"{share:.3g}" for share in shares.tolist()), "image"]
    draw_grid(path, rows, model.values, "interpolations between test images", labels, columns)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    parser = generative_parser("vae", __doc__, epochs=40, learning_rate=1e-3)
    parser.add_argument("--latent", type=integer(1), default=8, help="numbers in z (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run(parser.prog, lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
