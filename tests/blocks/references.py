"""How a block is compared with the same block of another library: weights copied, everything random, ten digits."""

from collections.abc import Callable

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


def copy_weights(reference: nn.Module, module: nn.Module, rename: Callable[[str], str]) -> None:
    """Load the reference's state under the names that the module has; nothing may be left over on either side."""
    module.load_state_dict({rename(name): value for name, value in reference.state_dict().items()})


def assert_equal_modules(module: nn.Module, reference: nn.Module, x: Tensor, rename: Callable[[str], str]) -> None:
    """Outputs, gradients of the input and of every parameter, and buffers are equal, in eval and in training mode."""
    reference = randomise(reference.double())
    module = module.double()
    copy_weights(reference, module, rename)
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
        ours = dict(module.named_parameters())
        for name, parameter in reference.named_parameters():
            torch.testing.assert_close(ours[rename(name)].grad, parameter.grad, rtol=1e-10, atol=1e-10)
        copies = dict(module.named_buffers())
        for name, buffer in reference.named_buffers():
            torch.testing.assert_close(copies[rename(name)], buffer, rtol=1e-10, atol=1e-10)
