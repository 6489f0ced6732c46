"""The tools of others take accelerated networks as they take plain ones, while the kernels compute all they can."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import kernels_on
from networks import NO_BATCH_NORM, NOT_WHOLE, images, regularised, small, walk
from tools import (
    TRAINING_FIRST,
    assert_compiles_whole,
    assert_equal_outputs,
    assert_exports_with_any_batch,
    assert_hooks_keep_what_they_see,
    assert_jit_traces,
    assert_vmap_computes_stacked,
    fx_traced,
)
from torch import Tensor

import cifarblocks
from cifarblocks.models.classifier import Classifier

# Norms, depthwise convolutions, and dilated ones; the slow suite has all others.
QUICK = {"eca_resnet_20", "ghost_resnet_20", "lsknet_tiny_cifar"}


@pytest.fixture(autouse=True)
def used():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def both(name: str, training: bool = True, **arguments: object) -> tuple[Classifier, Classifier]:
    """A network in float64, channels last, and the same accelerated."""
    plain = small(name, **regularised(name) | arguments).double().to(memory_format=torch.channels_last).train(training)
    faster = cifarblocks.accelerate(copy.deepcopy(plain))
    types = {type(module).__name__ for module in faster.modules()}
    assert ("NativeBatchNorm2d" in types) == (name not in NO_BATCH_NORM)
    return plain, faster


def inputs(model: Classifier, batch: int = 2) -> Tensor:
    return images(model, batch).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", walk(quick=QUICK))
def test_a_step_of_training_is_that_of_torch(name, used):
    plain, faster = both(name)
    x = inputs(plain, 4)
    for model in (plain, faster):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        F.cross_entropy(model(x), torch.arange(4)).backward()
        optimizer.step()
        assert ("batch_norm_backward" in used) == (model is faster and name not in NO_BATCH_NORM)
    gradients = [{path: part.grad for path, part in model.named_parameters()} for model in (plain, faster)]
    largest = max(gradient.abs().max().item() for gradient in gradients[0].values())
    torch.testing.assert_close(*reversed(gradients), rtol=1e-9, atol=1e-9 * largest)
    torch.testing.assert_close(faster.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ghost_resnet_20", "lsknet_tiny_cifar"])
def test_a_step_with_gradient_checkpointing_is_the_same(name, used):
    _, faster = both(name, dropout=0.0, drop_path=0.0)
    x, gradients = inputs(faster), []
    for checkpointed in (False, True):
        model = copy.deepcopy(faster)
        model.set_gradient_checkpointing(checkpointed)
        model(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert {"batch_norm", "batch_norm_backward", "depthwise_gradients"} <= set(used)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", walk(quick=QUICK))
def test_fx_traces_it_in_training_and_eval(name, used):
    plain, faster = both(name)
    x = inputs(plain)
    for training in (True, False):
        traced = fx_traced(faster.train(training))
        assert_equal_outputs(traced, plain.train(training), x, 1e-9)
    assert ("batch_norm" in used) == (name not in NO_BATCH_NORM)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("training", TRAINING_FIRST)
@pytest.mark.parametrize("name", walk(quick=QUICK))
def test_jit_traces_it(name, training):
    plain, faster = both(name, training)
    assert_jit_traces(faster, inputs(plain), inputs(plain, 3), gradients=training, theirs=plain, tolerance=1e-9)


def test_vmap_trains_stacked_models():
    models = [both("ghost_resnet_20", dropout=0.0, drop_path=0.0)[1] for _ in range(2)]
    assert_vmap_computes_stacked(models, inputs(models[0], 5))


@pytest.mark.parametrize("name", walk(quick=QUICK))
def test_what_a_forward_hook_keeps_stays(name, used):
    plain, faster = both(name)
    assert_hooks_keep_what_they_see(faster, inputs(plain))
    assert ("batch_norm" in used) == (name not in NO_BATCH_NORM)


@pytest.mark.parametrize("training", TRAINING_FIRST)
@pytest.mark.parametrize("name", walk(without=NOT_WHOLE, quick=QUICK))
def test_it_compiles_whole(name, training):
    plain, faster = both(name, training, dropout=0.0, drop_path=0.0)
    assert_compiles_whole(faster, inputs(plain), plain)


@pytest.mark.parametrize("name", walk(without=NOT_WHOLE, quick=QUICK))
def test_it_is_exported_with_any_batch(name):
    plain, faster = both(name, training=False)
    assert_exports_with_any_batch(faster, inputs(plain), inputs(plain, 5), plain)
