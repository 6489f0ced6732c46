"""Muon against its formula, by singular values, and beside SGD."""

import copy

import pytest
import torch
from commands import after_steps
from torch import nn

from cifarblocks.training.loop import fit
from cifarblocks.training.optim.muon import Muon, orthogonalised


def by_singular_values(matrix: torch.Tensor, iterations: int = 3) -> torch.Tensor:
    """The same polynomial, of the singular values alone."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s.unsqueeze(-2) @ v).float()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7), (3, 6, 20), (3, 20, 6)])
def test_orthogonalised_changes_the_singular_values_alone(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalised(matrix), by_singular_values(matrix), atol=1e-4, rtol=1e-4)
    many = torch.linalg.svdvals(orthogonalised(matrix, iterations=8))
    assert 0.6 < many.min() <= many.max() < 1.3


def test_two_steps_of_muon_are_those_of_its_formula():
    generator = torch.Generator().manual_seed(2)
    start, first, second = (torch.randn(4, 3, 3, 3, generator=generator) for _ in range(3))
    weight = nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.1, momentum=0.6)

    def step(weight, direction):
        weight = weight * 2 / weight.square().sum().sqrt()  # √4 rows
        return weight - 0.1 * by_singular_values(direction.reshape(4, 27)).reshape(weight.shape)

    weight.grad = first.clone()
    optimizer.step()
    expected = step(start, 1.6 * first)
    torch.testing.assert_close(weight.data, expected, atol=1e-5, rtol=1e-4)
    weight.grad = second.clone()
    optimizer.step()
    torch.testing.assert_close(weight.data, step(expected, 1.6 * second + 0.36 * first), atol=1e-5, rtol=1e-4)


def test_filters_of_one_shape_move_each_by_its_own_gradient():
    generator = torch.Generator().manual_seed(5)
    start = [torch.randn(4, size, 3, 3, generator=generator) for size in (3, 3, 2, 3)]
    together, apart = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([weight], lr=0.1) for weight in apart)]
    for _ in range(3):
        for one, other in zip(together, apart, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_in_autocast_the_steps_are_those_of_float32_nearly():
    gradient = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(6))
    moved = []
    for enabled in (False, True):
        weight = nn.Parameter(torch.zeros_like(gradient))
        weight.grad = gradient.clone()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            Muon([weight], lr=1.0).step()
        assert weight.dtype == torch.float32
        moved.append(weight.detach())
    assert 0 < (moved[0] - moved[1]).norm() < 0.03 * moved[0].norm()


def test_training_in_bfloat16_has_the_products_of_muon_in_it(prepared):
    run, seen = prepared("--precision", "bfloat16"), []
    with after_steps(lambda _: seen.append(torch.is_autocast_enabled("cpu"))):
        for _ in fit(run):
            pass
    assert seen == [True] * 2  # 22 images in batches of 8


def test_what_is_not_orthogonal_learns_by_sgd_and_what_has_no_gradient_stays():
    torch.manual_seed(0)
    ours = nn.ModuleList([nn.Linear(5, 4), nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)])
    theirs, unused = copy.deepcopy(ours[0]), ours[2].weight.detach().clone()
    group = {"params": list(ours[0].parameters()), "orthogonal": False, "weight_decay": 0.1}
    muon = Muon([group, {"params": [*ours[1].parameters(), *ours[2].parameters()]}], lr=0.1)
    sgd = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        x = torch.randn(2, 5)
        for layer, optimizer in ((ours[0], muon), (theirs, sgd)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            if optimizer is muon:
                ours[1](torch.randn(2, 3, 4, 4)).sum().backward()
            optimizer.step()
    for name, value in theirs.named_parameters():
        assert torch.equal(ours[0].get_parameter(name), value), name
    assert torch.equal(ours[2].weight, unused)


def test_filters_that_are_zero_move_like_others():
    weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    expected = -0.1 * by_singular_values(1.9 * weight.grad.flatten(1)).view_as(weight)
    Muon([weight], lr=0.1).step()
    torch.testing.assert_close(weight.data, expected, atol=1e-6, rtol=1e-4)
