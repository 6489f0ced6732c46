"""Demands that outside tools make of a block or a network, each as one assertion."""

import copy
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from cifarblocks.blocks import DropPath

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}


def slow(*values: object) -> object:
    """Values for a parametrized test that the quick suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def replace_norms(module: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
    """Replace every BatchNorm by exact type, as tools for differential privacy do."""
    for owner in list(module.modules()):
        for name, part in owner.named_children():
            if type(part) is nn.BatchNorm2d:
                setattr(owner, name, build(part.num_features))
    return module


TRAINING_FIRST = [True, slow(False)]  # for networks, whose blocks the quick suite tries in both modes


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not list(module.children())]


def with_drop_path(module: nn.Module, rate: float = 0.1) -> nn.Module:
    """Set the rate of every DropPath in it."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.rate = rate
    return module


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Within a share of the largest number."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


def assert_equal_outputs(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 1e-12
) -> None:
    """The same output for the same seed."""
    torch.manual_seed(1)
    expected = theirs(x)
    torch.manual_seed(1)
    assert_close(ours(x), expected, tolerance)


def assert_layers_are_torchs_own(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert type(module) is nn.Conv2d
        if isinstance(module, nn.modules.batchnorm._NormBase):
            assert type(module) is nn.BatchNorm2d
        assert not getattr(module, "inplace", False), module
    activations = [
        id(module)
        for _, module in model.named_modules(remove_duplicate=False)
        if type(module).__module__ == "torch.nn.modules.activation"
    ]
    assert len(activations) == len(set(activations)), "an activation is registered in two places"


def fx_traced(model: nn.Module) -> torch.fx.GraphModule:
    """The graph without dead code, as the passes of others leave it."""
    traced = torch.fx.symbolic_trace(model)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def assert_jit_traces(
    model: nn.Module,
    x: Tensor,
    more: Tensor,
    gradients: bool,
    theirs: nn.Module | None = None,
    tolerance: float = 1e-12,
) -> None:
    """Check that a graph recorded from x gives the same output for `more` as the model, or as another."""
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x, check_trace=False)  # dropout draws other numbers the second time
        torch.jit.save(traced, io.BytesIO())  # refuses calls of Python, as of an autograd function
        with torch.jit.optimized_execution(False):  # optimising takes most of the time
            assert_equal_outputs(traced, model if theirs is None else theirs, more, tolerance)


def assert_vmap_computes_stacked(models: list[nn.Module], x: Tensor, x_dim: int | None = None) -> None:
    """Outputs and buffers (running statistics) of stacked models, which see the same x or each its own."""
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def computed(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, (parameters, buffers), (x,))

    stacked = torch.vmap(computed, in_dims=(0, 0, x_dim), randomness="different")(parameters, buffers, x)
    for index, model in enumerate(models):
        expected = model(x if x_dim is None else x[index])
        torch.testing.assert_close(stacked[index], expected, rtol=1e-10, atol=1e-10)
        for path, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[path][index], buffer, rtol=1e-10, atol=1e-10)


def assert_gradients_of_each_sample(model: nn.Module, x: Tensor) -> None:
    """Equal to those of a loop."""
    parameters = {path: parameter.detach() for path, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, parameters, (image.unsqueeze(0),)).square().sum()

    batched = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for index, image in enumerate(x):
        model.zero_grad()
        model(image.unsqueeze(0)).square().sum().backward()
        largest = max(parameter.grad.abs().max().item() for parameter in model.parameters())
        for path, parameter in model.named_parameters():
            torch.testing.assert_close(batched[path][index], parameter.grad, rtol=1e-10, atol=1e-10 * largest)


def assert_hooks_keep_what_they_see(model: nn.Module, x: Tensor) -> None:
    """Assert that a forward hook's tensor is unchanged after the forward and the backward pass."""
    kept = []

    def keep(module, arguments, output):
        output = output[0] if isinstance(output, tuple) else output  # of an LSTM
        kept.append((type(module).__name__, output, output.detach().clone()))

    for leaf in leaves(model):
        leaf.register_forward_hook(keep)
    model(x).square().sum().backward()
    assert kept
    assert not [name for name, output, at_first in kept if not torch.equal(output, at_first)]


def filled_in(model: nn.Module) -> nn.Module:
    """Memory for a model on the meta device, and every module's own first values."""
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():  # so that what nobody sets is seen
        tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def as_drawn(ours: Tensor, theirs: Tensor) -> bool:
    """Return True if the tensors are equal, or have one mean and deviation to 5 % and five standard errors."""
    if torch.equal(ours, theirs):
        return True
    if not (ours.std() > 0 and theirs.std() > 0):
        return False
    apart = (ours.mean() - theirs.mean()).abs().item(), (ours.std() - theirs.std()).abs().item()
    return max(apart) <= (0.05 + 5 * (2 / ours.numel()) ** 0.5) * torch.cat((ours.flatten(), theirs.flatten())).std()


def assert_compiles_whole(model: nn.Module, x: Tensor, theirs: nn.Module | None = None) -> None:
    """Without a break in the graph, to what the model, or another, computes."""
    torch._dynamo.reset()  # it counts how often it has compiled one forward
    expected = (copy.deepcopy(model) if theirs is None else theirs)(x)  # in training the running statistics move
    assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected, 1e-9)


def assert_exports_with_any_batch(model: nn.Module, x: Tensor, more: Tensor, theirs: nn.Module | None = None) -> None:
    """Exported with x, it computes for `more` images what the model, or another, computes."""
    assert len(more) != len(x)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert_close(exported(more), (model if theirs is None else theirs)(more), 1e-9)


def through_onnx(model: nn.Module, x: Tensor, more: Tensor, path: Path, optimize: bool = True) -> Tensor:
    """Exported with x, and what onnxruntime computes for `more` images."""
    import onnxruntime

    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (x,), dynamic_shapes=dynamic, dynamo=True, verbose=False, optimize=optimize).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: more.numpy()})[0])


def without_batch_norm(modules: Iterable[nn.Module]) -> bool:
    return not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in modules)
