import json
import math

import pytest
import torch
import vae
from sklearn.decomposition import PCA
from torch.distributions import Normal, kl_divergence

from cifarblocks.training.data.datasets import DataSet, Images


def small_vae(values=17, channels=1, size=8, latent=3):
    return vae.VAE(channels, size, values, latent, width=4).eval()


def small_data(values=17, images=40):
    pixels = torch.randint(values, (images, 8, 8, 1), dtype=torch.uint8)
    half = Images(pixels[::2], torch.arange(images // 2) % 2), Images(pixels[1::2], torch.arange(images // 2) % 2)
    return DataSet("noise", *half, ["a", "b"], mirror=False)


def test_kl_is_that_of_torch():
    mean, log_variance = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(vae.kl_from_standard_normal(mean, log_variance), expected)


# Means within and beyond the pixels' range, scales from far below to far above the step between two values.
MEANS, LOG_SCALES = torch.meshgrid(
    torch.tensor([-3.0, -1.0, -0.2, 0.0013, 0.99, 2.0], dtype=torch.float64),
    torch.tensor([-7.0, -5.0, -3.0, -1.0, 2.0, 7.0], dtype=torch.float64),
    indexing="ij",
)


def log_probabilities(values):
    """(values, means, log scales)."""
    x = torch.linspace(-1, 1, values, dtype=torch.float64).view(-1, 1, 1)
    return vae.log_probability(x.expand(-1, *MEANS.shape), MEANS, LOG_SCALES, values)


@pytest.mark.parametrize("values", [2, 17, 256])
def test_the_probabilities_of_all_pixel_values_sum_to_one(values):
    total = log_probabilities(values).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_a_value_has_the_mass_of_the_logistic_half_way_to_its_neighbours():
    edges = torch.linspace(-1 - 1 / 16, 1 + 1 / 16, 18, dtype=torch.float64).view(-1, 1, 1)
    cumulative = torch.sigmoid((edges - MEANS) / LOG_SCALES.exp())
    cumulative[0], cumulative[-1] = 0, 1
    torch.testing.assert_close(log_probabilities(17).exp(), cumulative.diff(dim=0), rtol=0, atol=1e-12)


def test_far_from_the_mean_probability_and_gradient_are_finite_in_float32():
    x = torch.linspace(-1, 1, 256)
    mean, log_scale = torch.full((2, 256), -3.0).unbind()
    mean, log_scale = mean.requires_grad_(), (log_scale - 4).requires_grad_()
    log_probability = vae.log_probability(x, mean, log_scale, 256)
    log_probability.sum().backward()
    assert log_probability.isfinite().all()
    assert mean.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()
    assert log_probability.min() < -1000  # underflows as a difference of two probabilities


@pytest.mark.parametrize("values", [2, 17, 256])
def test_the_expected_pixel_is_the_mean_over_all_values(values):
    x = torch.linspace(-1, 1, values, dtype=torch.float64).view(-1, 1, 1)
    expected = (log_probabilities(values).exp() * x).sum(0)
    torch.testing.assert_close(vae.expectation(MEANS, LOG_SCALES, values), expected, rtol=0, atol=1e-12)


def test_principal_components_reconstruct_as_those_of_scikit_learn():
    x, other = torch.randn(2, 30, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64) + 3
    components = vae.principal_components(x, 4)
    reference = PCA(4).fit(x.numpy())
    for part in (x, other):
        expected = torch.from_numpy(reference.inverse_transform(reference.transform(part.numpy())))
        torch.testing.assert_close(components.reconstruct(part), expected)
    lost = torch.linalg.svdvals(x - x.mean(0))[4:].square().sum()
    torch.testing.assert_close((components.reconstruct(x) - x).square().sum(), lost)


def test_the_elbo_of_a_model_that_knows_nothing_is_a_closed_form():
    """q is the prior, so KL is 0; each pixel is a logistic of mean 0 and scale 1 whatever z is."""
    model, data = small_vae(), small_data()
    for layer in (model.encoder[-1], model.decoder[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    scores = vae.measure(model, data, vae.principal_components(torch.rand(20, 64, dtype=torch.float64), 3), samples=2)
    edges = torch.linspace(-1 - 1 / 16, 1 + 1 / 16, 18, dtype=torch.float64).sigmoid()
    edges[0], edges[-1] = 0, 1
    nats = -edges.diff().log()[data.test.pixels.flatten().long()].sum().item() / len(data.test)
    assert scores["kl_nats_per_image"] == 0
    assert scores["negative_elbo_nats_per_image"] == pytest.approx(nats, rel=1e-6)
    expected_pixel = (edges.diff() * torch.linspace(0, 1, 17)).sum()
    error = (data.test.pixels / 16 - expected_pixel).square().mean().item()
    assert scores["reconstruction_mean_squared_error"] == pytest.approx(error, rel=1e-5)


def test_the_elbo_is_its_integral_and_below_the_probability_of_the_images():
    """With one latent number both are integrals over a line, which sums give."""
    model = small_vae(latent=1).double()
    with torch.no_grad():
        model.encoder[-1].bias.copy_(torch.tensor([0.5, -3.0]))  # a narrow q, away from the prior
        model.decoder[0].weight.mul_(10)  # what is decoded depends on z
        x = torch.rand(4, 1, 8, 8, dtype=torch.float64).mul(16).round() / 8 - 1
        quantiles = Normal(0.0, 1.0).icdf((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
        losses = sum(model(x.repeat_interleave(1000, 0), quantiles.repeat(4).unsqueeze(1)))
        elbo = -losses.view(4, 1000).mean(1)

        z, step = torch.linspace(-8, 8, 4001, dtype=torch.float64), 16 / 4000
        mean, log_scale = model.decode(z.unsqueeze(1))
        given_z = torch.stack([vae.log_probability(one, mean, log_scale, 17).sum((1, 2, 3)) for one in x])
        q = Normal(model.encode(x)[0], (model.encode(x)[1] / 2).exp())
        expected = (q.log_prob(z).exp() * step * given_z).sum(1) - kl_divergence(q, Normal(0.0, 1.0)).squeeze(1)
        log_probability = torch.logsumexp(given_z + Normal(0.0, 1.0).log_prob(z), 1) + math.log(step)
    torch.testing.assert_close(elbo, expected, rtol=0, atol=0.02)
    assert (elbo < log_probability).all()


def test_independent_pixels_by_hand():
    train = torch.tensor([[0, 1], [0, 0], [0, 1]], dtype=torch.uint8).view(3, 1, 2, 1)
    test = torch.tensor([[0, 0], [1, 1]], dtype=torch.uint8).view(2, 1, 2, 1)
    shares = [4 / 5, 2 / 5, 1 / 5, 3 / 5]  # one more of each value than was seen
    assert vae.independent_pixels(train, test, 2) == pytest.approx(-sum(map(math.log, shares)) / 2)


def test_pixels_of_256_equal_values_are_eight_bits():
    assert vae.bits_per_dimension(3072 * math.log(256), 3072) == pytest.approx(8)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 12), (3, 32), (3, 40)])
def test_shapes(channels, size):
    model = small_vae(channels=channels, size=size)
    x = torch.zeros(2, channels, size, size)
    assert [part.shape for part in model.encode(x)] == [(2, 3)] * 2
    assert [part.shape for part in model.decode(torch.zeros(2, 3))] == [x.shape] * 2
    assert [part.shape for part in model(x, torch.zeros(2, 3))] == [(2,)] * 2


@pytest.mark.slow
def test_the_digits_are_modelled_better_than_by_pca(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert vae.main(["--name", "digits"]) == 0
    summary = json.loads((tmp_path / "runs" / "vae" / "digits" / "summary.json").read_text())
    assert ", below PCA's" in capsys.readouterr().out
    assert summary["reconstruction_mean_squared_error"] < 0.75 * summary["pca_mean_squared_error"]
    assert summary["negative_elbo_nats_per_image"] < 0.85 * summary["independent_pixels_nats_per_image"]
