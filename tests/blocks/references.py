"""References for blocks: another library's block with the same weights, or the paper's formula, equal to 1e-10."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
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


@torch.no_grad()
def randomise_by_fan_in(module: nn.Module) -> nn.Module:
    """Draw everything anew, matrices so that signals keep their size through many layers."""
    randomise(module)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.div_(parameter[0].numel() ** 0.5)
    return module


def rename_with(names: dict[str, str], name: str) -> str:
    """Replace the first of `names` that equals the dotted name or is a prefix of it."""
    for theirs, ours in names.items():
        if name == theirs or name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    raise KeyError(name)


def assert_equal_modules(
    module: nn.Module,
    reference: nn.Module,
    x: Tensor,
    rename: Callable[[str], str],
    convert: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> None:
    """Check that outputs, all gradients and buffers are equal, in eval and in training mode.

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


def assert_equals_formula(module: nn.Module, formula: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Check that outputs and all gradients are equal."""
    names = ["the output", "the gradient of x", *(f"the gradient of {name}" for name, _ in module.named_parameters())]
    results = []
    for function in (module, formula):
        own = x.clone().requires_grad_()
        y = function(own)
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        gradients = torch.autograd.grad(loss, [own, *module.parameters()], materialize_grads=function is formula)
        results.append((y, *gradients))
    for name, ours, expected in zip(names, *results, strict=True):
        torch.testing.assert_close(
            ours, expected, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


# The parts of formulas: each convolution is an explicit sum of shifted, weighted maps.


def shifted(x: Tensor, dy: int, dx: int) -> Tensor:
    """y[i, j] = x[i + dy, j + dx], 0 outside the map."""
    h, w = x.shape[-2:]
    dy, dx = max(-h, min(dy, h)), max(-w, min(dx, w))
    return F.pad(x, (-dx, dx, -dy, dy))


def convolution(x: Tensor, conv: nn.Conv2d | nn.Linear, stride: int = 1, dilation: int = 1) -> Tensor:
    """Dense, depthwise, pointwise or grouped, as the shape of the weight says."""
    weight = conv.weight if conv.weight.ndim == 4 else conv.weight[:, :, None, None]  # a linear layer for each pixel
    _, inputs, height, width = weight.shape
    weight = weight.unflatten(0, (x.shape[1] // inputs, -1))
    y = torch.zeros(())
    for u in range(height):
        for v in range(width):
            moved = shifted(x, (u - height // 2) * dilation, (v - width // 2) * dilation)
            moved = moved.unflatten(1, (-1, inputs))
            y = y + torch.einsum("goi,bgihw->bgohw", weight[..., u, v], moved)
    y = y.flatten(1, 2)[:, :, ::stride, ::stride]
    return y if conv.bias is None else y + conv.bias.view(-1, 1, 1)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    mean = x.mean((0, 2, 3)) if training else norm.running_mean
    variance = (x - mean.view(-1, 1, 1)).square().mean((0, 2, 3)) if training else norm.running_var
    normal = (x - mean.view(-1, 1, 1)) / (variance + 1e-5).sqrt().view(-1, 1, 1)
    return normal * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def layer_norm(x: Tensor, norm: nn.Module, eps: float = 1e-6) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    normal = (x - mean) / (variance + eps).sqrt()
    return normal * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def large_kernel_block(x: Tensor, module: nn.Module, unit: Callable[..., Tensor], training: bool) -> Tensor:
    """The residual form that SegNeXt and LSKNet share."""
    z = unit(batch_norm(x, module.attention_norm, training), module.attention)
    x = x + module.attention_scale.gamma.view(-1, 1, 1) * z
    z = convolution(batch_norm(x, module.mlp_norm, training), module.mlp[0])
    z = convolution(gelu(convolution(z, module.mlp[1])), module.mlp[4])
    return x + module.mlp_scale.gamma.view(-1, 1, 1) * z


def large_kernel_unit(x: Tensor, module: nn.Module, attention: Callable[..., Tensor]) -> Tensor:
    first, _, inner, last = module.branch
    return convolution(attention(gelu(convolution(x, first)), inner), last) + x
