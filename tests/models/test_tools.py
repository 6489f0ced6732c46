"""Every classifier is made of torch's own layers, so that the tools of others take it as they take torchvision's."""

import copy
from collections import Counter

import pytest
import torch
from networks import FIXED_SIZE, NAMES, NO_BATCH_NORM, NO_DROP_PATH, OTHERS, images, small, walk
from test_counts import on_meta
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.feature_extraction import create_feature_extractor

QUICK = walk(NAMES, OTHERS)
# torch has no batching rule for an LSTM: "Batching rule not implemented for aten::lstm.input".
BATCHED = [name for name in NAMES if name != "patch_lstm"]
ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}


def regularised(name: str) -> dict[str, float]:
    return {"dropout": 0.1} | ({} if name in NO_DROP_PATH else {"drop_path": 0.1})


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not list(module.children())]


def assert_equal_outputs(ours: nn.Module, theirs: nn.Module, x: Tensor, tolerance: float = 1e-12) -> None:
    """The same output for the same seed."""
    torch.manual_seed(1)
    expected = theirs(x)
    torch.manual_seed(1)
    torch.testing.assert_close(ours(x), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_torchs_own(name):
    model = on_meta(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert type(module) is nn.Conv2d
        assert not getattr(module, "inplace", False), module
    norms = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)}
    assert norms == (set() if name in NO_BATCH_NORM else {nn.BatchNorm2d})
    activations = [
        id(module)
        for _, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, tuple(ACTIVATIONS.values()))
    ]
    assert len(activations) == len(set(activations)), "an activation is registered in two places"


class CountActivations(TorchDispatchMode):
    """Count what is computed, in place or not."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0].removesuffix("_")
        if name in ACTIVATIONS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("name", QUICK)
def test_every_activation_is_a_call_of_its_module(name):
    model = small(name).eval()
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    calls = Counter()
    for module in model.modules():
        if type(module) in names:
            module.register_forward_hook(lambda module, *_: calls.update([names[type(module)]]))
    with CountActivations() as computed:
        model(images(model, 1, torch.float32))
    assert sum(calls.values()) > 0
    assert calls == computed.counts


@pytest.mark.parametrize("name", QUICK)
def test_fx_traces_it_in_training_and_eval(name):
    model = small(name, **regularised(name)).double()
    x = images(model)
    for training in (True, False):
        traced = torch.fx.symbolic_trace(model.train(training))
        traced.graph.eliminate_dead_code()
        traced.recompile()
        assert_equal_outputs(traced, model, x)
        if name in FIXED_SIZE:
            with pytest.raises(ValueError, match="image_size is .* and fixed"):
                traced(torch.cat((x, x), dim=3))


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing the model in eval mode")  # without dropout
@pytest.mark.parametrize("name", QUICK)
def test_torchvision_extracts_features(name):
    model = small(name, **regularised(name)).double().eval()
    x = images(model)
    path = "stages.0" if len(model.stages) else "stem"
    expected = model.stages[0](model.stem(x)) if len(model.stages) else model.stem(x)
    extracted = create_feature_extractor(model, {path: "features"}).eval()(x)
    torch.testing.assert_close(extracted["features"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", QUICK)
def test_jit_traces_it(name, training, gradients):
    model = small(name, **regularised(name)).double().train(training)
    x = images(model)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x, check_trace=False)  # dropout draws other numbers the second time
    with torch.set_grad_enabled(gradients), torch.jit.optimized_execution(False):  # optimising takes most of the time
        assert_equal_outputs(traced, model, images(model, 3))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention is not batched, but computed in a loop
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", walk(BATCHED, OTHERS))
def test_vmap_computes_stacked_models(name, training):
    models = [small(name, dropout=0.0, drop_path=0.0).double().train(training) for _ in range(2)]
    x = images(models[0])
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    stacked = torch.vmap(lambda *state: functional_call(skeleton, state, (x,)))(parameters, buffers)
    for index, model in enumerate(models):
        torch.testing.assert_close(stacked[index], model(x), rtol=1e-10, atol=1e-10)
        for path, buffer in model.named_buffers():  # running statistics among them
            torch.testing.assert_close(buffers[path][index], buffer, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", walk(sorted(NO_BATCH_NORM & set(BATCHED)), OTHERS))
def test_gradients_of_each_sample_equal_those_of_a_loop(name):
    model = small(name, dropout=0.0).double()
    x = images(model, 2)
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


@pytest.mark.parametrize("name", QUICK)
def test_what_a_forward_hook_keeps_stays(name):
    model = small(name, **regularised(name)).train()
    kept = []

    def keep(module, arguments, output):
        output = output[0] if isinstance(output, tuple) else output  # of an LSTM
        kept.append((type(module).__name__, output, output.detach().clone()))

    for leaf in leaves(model):
        leaf.register_forward_hook(keep)
    model(images(model, dtype=torch.float32)).square().sum().backward()
    assert kept
    assert not [name for name, output, at_first in kept if not torch.equal(output, at_first)]


@pytest.mark.parametrize("name", QUICK)
def test_backward_hooks_run_on_every_leaf(name):
    model = small(name, **regularised(name)).train()
    called, fired = set(), set()
    for leaf in leaves(model):
        leaf.register_forward_hook(lambda module, *_: called.add(module))
        leaf.register_full_backward_hook(lambda module, *_: fired.add(module))
    model(images(model, dtype=torch.float32).requires_grad_()).square().sum().backward()
    assert called
    assert fired == called
