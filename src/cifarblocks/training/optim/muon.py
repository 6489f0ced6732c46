"""Muon: steps of equal size in all directions of a matrix or of a bank of filters."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

# Learning rate of orthogonal steps, as a share of the rate of the rest. For 30 epochs of eca_resnet_20, 0.07 was the
# best of 0.05, 0.07, 0.1 and 0.15 on validation images. With AdamW the steps are scaled so that they need no share.
MUON_SHARES = {"muon": 0.07, "muon_adamw": 1.0}


class Muon(SGD):
    """SGD with Nesterov momentum, the steps of filters made orthogonal: https://kellerjordan.github.io/posts/muon.

    A bank of filters is a matrix, (out_channels, in_channels·k·k). Its gradient has a few large singular values and
    many small ones; made orthogonal, all directions move alike. Before each step the weights are brought to the norm
    √out_channels, that of rows of length 1; nothing decays.

    Args:
        parameters: Parameters or groups of them; a group with `orthogonal` false (e.g. the biases) learns by SGD.
        lr: Learning rate of orthogonal steps, a length relative to the weights.
        momentum: Momentum of both.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=True)
        for group in self.param_groups:
            group.setdefault("orthogonal", True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step, which clears the gradients of the filters."""
        for group in orthogonal_groups(self):
            for weight, direction in directions(self, group["params"], group["momentum"]):
                weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(1e-7))
                weight.sub_(direction, alpha=group["lr"])
        super().step()


class MuonAdamW(AdamW):
    """AdamW, the steps of matrices made orthogonal: Moonlight, Liu et al. 2025, https://arxiv.org/abs/2502.16982.

    The orthogonal step of an (r, c) matrix is scaled by 0.2·√max(r, c). So its elements are as large as those of
    AdamW's steps (equation 4). One learning rate and one weight decay then suit both.

    Args:
        parameters: Parameters or groups of them; a group with `orthogonal` false learns by AdamW.
        lr: Learning rate of both.
        eps: Epsilon of AdamW.
        momentum: Nesterov momentum of orthogonal steps.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, eps: float = 1e-8, momentum: float = 0.95) -> None:
        super().__init__(parameters, lr=lr, eps=eps)
        for group in self.param_groups:
            group.setdefault("orthogonal", True)
            group.setdefault("momentum", momentum)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step, which clears the gradients of the matrices."""
        for group in orthogonal_groups(self):
            for weight, direction in directions(self, group["params"], group["momentum"]):
                self.state[weight].setdefault("step", torch.zeros(()))  # AdamW looks for one when it is loaded
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(direction, alpha=0.2 * max(weight.flatten(1).shape) ** 0.5 * group["lr"])
        super().step()


def orthogonal_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the groups of parameters that move orthogonally."""
    return [group for group in optimizer.param_groups if group["orthogonal"]]


def directions(optimizer: Optimizer, weights: list[Tensor], momentum: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each weight that has a gradient, with its orthogonal direction, and clear the gradient.

    Weights of one shape are orthogonalised in one batch, because one large matrix product is faster than many small
    ones.
    """
    weights = [weight for weight in weights if weight.grad is not None]
    for shape in dict.fromkeys(weight.shape for weight in weights):
        bank, moves = [weight for weight in weights if weight.shape == shape], []
        for weight in bank:
            gradient, weight.grad = cast("Tensor", weight.grad), None  # so that SGD or AdamW skips it
            state = optimizer.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
            moves.append(gradient.add(buffer, alpha=momentum))
        for weight, direction in zip(bank, orthogonalised(torch.stack(moves).flatten(2)), strict=True):
            yield weight, direction.view_as(weight)


def orthogonalised(matrices: Tensor, iterations: int = 3) -> Tensor:
    """Bring the singular values of matrices (..., r, c) near 1, to 0.7 to 1.2: Newton-Schulz, degree 5.

    Its coefficients are Muon's: steep at 0, where most singular values begin, rather than exact at 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalised(matrices.mT, iterations).mT
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        polynomial = b * square + c * square @ square
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)  # autocast would leave a·x in float32: 1.5 to 2 times as long
        x = polynomial @ x
    return x
