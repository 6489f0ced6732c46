"""How a block is compared with the same block of another library: weights copied, everything random, ten digits."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomise(module: nn.Module) -> nn.Module:
    """Draw every parameter and buffer anew, variances positive, so that no default hides a mistake."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.normal_(std=0.5)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
            elif name.endswith("gamma"):
                tensor.add_(1)
    return module


def assert_equal_modules(
    module: nn.Module,
    reference: nn.Module,
    x: Tensor,
    rename: Callable[[str], str],
    convert: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> None:
    """Outputs, gradients of the input and of every parameter, and buffers are equal, in eval and in training mode.

    `rename` gives our name of each tensor of the reference, `convert` its layout; no tensor may be left over.
    """
    reference = randomise(reference.double())
    module = module.double()

    def converted(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {rename(name): convert(name, tensor) for name, tensor in tensors}

    module.load_state_dict(converted(reference.state_dict().items()))
    for training in (False, True):
        results = []
        for each in (reference, module):
            each.train(training)
            each.zero_grad()
            own = x.double().clone().requires_grad_()
            y = each(own.clone())  # some libraries work in place
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            results.append((y, own.grad))
        for theirs, ours in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        gradients = converted((name, parameter.grad) for name, parameter in reference.named_parameters())
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-10, atol=1e-10)
        states = converted(reference.state_dict().items())
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, states[name], rtol=1e-10, atol=1e-10)
