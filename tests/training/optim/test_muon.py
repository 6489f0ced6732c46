"""Muon against its formula, by singular values, and beside SGD and AdamW."""

import copy

import pytest
import torch
from commands import after_steps
from refusals import refuses
from run_folders import assert_same
from torch import nn

from cifarblocks.training.distributed import ALONE
from cifarblocks.training.loop import fit
from cifarblocks.training.optim.muon import Muon, MuonAdamW, orthogonalised


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


def assert_two_steps(optimizer, weight, gradients, step):
    """Compare two steps, of momentum 0.6 with Nesterov's look ahead, with step(weight, direction)."""
    first, second = gradients
    expected = weight.data.clone()
    for gradient, direction in ((first, 1.6 * first), (second, 1.6 * second + 0.36 * first)):
        expected = step(expected, direction)
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.data, expected, atol=1e-5, rtol=1e-4)


def test_two_steps_of_muon_are_those_of_its_formula():
    generator = torch.Generator().manual_seed(2)
    start, first, second = (torch.randn(4, 3, 3, 3, generator=generator) for _ in range(3))
    weight = nn.Parameter(start.clone())
    optimizer = Muon([{"params": [weight], "weight_decay": 0.5}], lr=0.1, momentum=0.6)  # nothing decays

    def step(weight, direction):
        weight = weight * 2 / weight.square().sum().sqrt()  # √4 rows
        return weight - 0.1 * by_singular_values(direction.reshape(4, 27)).reshape(weight.shape)

    assert_two_steps(optimizer, weight, (first, second), step)


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


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (4, 3, 3, 3), (8, 2, 1, 1)])
def test_two_steps_of_muon_beside_adamw_are_those_of_its_formula(shape):
    generator = torch.Generator().manual_seed(7)
    start, first, second = (torch.randn(shape, generator=generator) for _ in range(3))
    weight, longer = nn.Parameter(start.clone()), max(shape[0], start[0].numel())
    optimizer = MuonAdamW([{"params": [weight], "weight_decay": 0.3}], lr=0.1, momentum=0.6)

    def step(weight, direction):
        return 0.97 * weight - 0.1 * 0.2 * longer**0.5 * by_singular_values(direction.flatten(1)).reshape(shape)

    assert_two_steps(optimizer, weight, (first, second), step)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_muon_beside_adamw_is_that_of_torch_to_its_bfloat16(shape):
    generator = torch.Generator().manual_seed(8)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"momentum": 0.95, "weight_decay": 0.1, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = [
        MuonAdamW([{"params": [ours], "weight_decay": 0.1}], lr=0.01),
        torch.optim.Muon([theirs], lr=0.01, **settings),
    ]
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert 0 < (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_the_orthogonal_steps_are_as_large_as_those_of_adamw():
    generator = torch.Generator().manual_seed(9)
    for shape in [(64, 256), (256, 64), (128, 128)]:
        sizes = []
        for orthogonal in (True, False):
            weight = nn.Parameter(torch.zeros(shape))
            optimizer = MuonAdamW([{"params": [weight], "orthogonal": orthogonal, "weight_decay": 0.0}], lr=0.01)
            for _ in range(30):
                before = weight.detach().clone()
                weight.grad = torch.randn(shape, generator=generator)
                optimizer.step()
            sizes.append((weight.detach() - before).square().mean().sqrt())
        assert 0.4 < sizes[0] / sizes[1] < 1.5, (shape, sizes)


def test_what_is_not_orthogonal_learns_by_adamw_to_the_bit():
    generator = torch.Generator().manual_seed(4)
    start = [torch.randn(shape, generator=generator) for shape in ((4, 5), (4,), (4, 1, 3, 3))]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    matrix = nn.Parameter(torch.randn(3, 3, generator=generator))
    groups = [{"params": ours, "orthogonal": False, "weight_decay": 0.1}, {"params": [matrix], "weight_decay": 0.2}]
    optimizers = [MuonAdamW(groups, 0.1, eps=1e-3), torch.optim.AdamW(theirs, 0.1, eps=1e-3, weight_decay=0.1)]
    for _ in range(3):
        matrix.grad = torch.randn(3, 3, generator=generator)
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_a_run_with_both_goes_on_to_the_bit(prepared, precision):
    arguments = ("--optimizer", "muon_adamw", "--lr", 0.01, "--epochs", 2, "--precision", precision, "--resume")
    arguments = (*arguments, "--layer-decay", 0.8, "--clip", 0.5)
    whole, cut = prepared(*arguments, "--name", "whole"), prepared(*arguments, "--name", "cut")
    for _ in fit(whole):
        pass
    next(fit(cut))
    resumed = prepared(*arguments, "--name", "cut")
    assert len(resumed.state.history) == 1
    for _ in fit(resumed):
        pass
    assert_same(whole.state.model.state_dict(), resumed.state.model.state_dict())
    assert_same(whole.state.optimizer.state_dict(), resumed.state.optimizer.state_dict())


def test_memory_of_the_other_kind_is_refused(prepared):
    state = prepared("--optimizer", "muon_adamw").state
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.step = 1
    content = state.state_dict(ALONE)
    memories = content["optimizer"]["state"]
    numbers = {tuple(sorted(memory)): number for number, memory in memories.items()}
    matrix, other = numbers.pop(("momentum_buffer", "step")), numbers.pop(("exp_avg", "exp_avg_sq", "step"))
    assert not numbers
    for changed, taken, name in ((matrix, other, "momentum_buffer"), (other, matrix, "step")):
        swapped = {**memories, changed: memories[taken]}
        with refuses(ValueError, "memory", f"parameter {changed}", name):
            state.load_state_dict({**content, "optimizer": {**content["optimizer"], "state": swapped}}, ALONE)


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
