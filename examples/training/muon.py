"""Muon: steps that move all directions of a bank of filters alike."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD


class Muon(SGD):
    """SGD with Nesterov momentum, the steps of filters made orthogonal: https://kellerjordan.github.io/posts/muon.

    A bank of filters is a matrix, (out_channels, in_channels·k·k). Its gradient has a few large singular values and
    many small ones; made orthogonal, all directions move alike. Before each step the weights are brought to the norm
    √out_channels, that of a matrix with orthogonal rows of length 1; nothing decays.

    Args:
        parameters: or groups of them; one with `orthogonal` false, such as of biases and the last layer, learns by SGD.
        lr: of orthogonal steps, a length relative to that of the weights.
        momentum: of both.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=True)
        for group in self.param_groups:
            group.setdefault("orthogonal", True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step; the gradients of filters are used up."""
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    self._step_orthogonally(weight, weight.grad, group["lr"], group["momentum"])
                    weight.grad = None  # so that SGD leaves it alone
        super().step()

    def _step_orthogonally(self, weight: Tensor, gradient: Tensor, lr: float, factor: float) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"]
        momentum.mul_(factor).add_(gradient)
        direction = orthogonalised(gradient.add(momentum, alpha=factor).flatten(1))
        weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(1e-7))
        weight.sub_(direction.view_as(weight), alpha=lr)


def orthogonalised(matrix: Tensor, iterations: int = 3) -> Tensor:
    """The matrix with all its singular values near 1, after some iterations 0.7 to 1.2: Newton-Schulz of degree 5.

    Its coefficients are Muon's: steep at 0, where most singular values begin, rather than exact at 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T, iterations).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x
