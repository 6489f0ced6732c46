from functools import partial

import pytest
import torch
from references import assert_equals_formula
from torch import Tensor

from cifarblocks.blocks import SimAM


def from_energies(x: Tensor, regularisation: float) -> Tensor:
    """Equation 5 for each value, summed place by place, and the gate of equation 6."""
    places = x.flatten(2).unbind(2)
    mean = sum(places) / len(places)
    variance = sum((place - mean) ** 2 for place in places) / len(places)
    gated = []
    for t in places:
        energy = 4 * (variance + regularisation) / ((t - mean) ** 2 + 2 * variance + 2 * regularisation)
        gated.append(t / (1 + torch.exp(-1 / energy)))
    return torch.stack(gated, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("regularisation", [1e-4, 0.1, 3.0])
@pytest.mark.parametrize("size", [(5, 4), (1, 3), (1, 1)])
def test_is_its_formula(regularisation, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert_equals_formula(SimAM(3, regularisation), partial(from_energies, regularisation=regularisation), x)


@pytest.mark.parametrize("size", [(2, 2), (8, 5)])
def test_the_least_energy_is_the_least_of_equation_2(size):
    """The gate is that of the linear classifier that tells a value from its neighbours best, found by least squares."""
    x = torch.randn(size, dtype=torch.float64).flatten()
    count, regularisation = len(x), 0.3
    for target in (0, count - 1):
        others = x  # the paper takes mean and variance of all values for those of the others
        rows = torch.stack([others, torch.ones(count)], 1).double() / count**0.5
        wanted = -torch.ones(count, dtype=torch.float64) / count**0.5
        rows = torch.cat([rows, torch.tensor([[x[target], 1.0], [regularisation**0.5, 0.0]])])
        wanted = torch.cat([wanted, torch.tensor([1.0, 0.0])])
        solution = torch.linalg.lstsq(rows, wanted[:, None]).solution
        energy = ((rows @ solution)[:, 0] - wanted).square().sum()
        gate = SimAM(1, regularisation)(x.view(1, 1, *size)).flatten()[target] / x[target]
        torch.testing.assert_close(gate, (1 / energy).sigmoid(), rtol=1e-10, atol=1e-10)


def test_on_one_place_the_gate_is_that_of_no_importance():
    x = torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(SimAM(3)(x), x * torch.tensor(0.5).sigmoid())
