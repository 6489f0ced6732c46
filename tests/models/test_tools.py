"""Every classifier is made of torch's own layers, so that the tools of others take it as they take torchvision's."""

from collections import Counter

import pytest
import torch
from networks import FIXED_SIZE, NAMES, NO_BATCH_NORM, images, on_meta, regularised, small, walk
from refusals import refuses
from tools import (
    ACTIVATIONS,
    TRAINING_FIRST,
    assert_equal_outputs,
    assert_gradients_of_each_sample,
    assert_hooks_keep_what_they_see,
    assert_jit_traces,
    assert_layers_are_torchs_own,
    assert_vmap_computes_stacked,
    fx_traced,
    leaves,
    without_batch_norm,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.feature_extraction import create_feature_extractor

from cifarblocks.blocks import PaddingShortcut

# torch has no batching rule for an LSTM: "Batching rule not implemented for aten::lstm.input".
NOT_BATCHED = {"patch_lstm"}


@pytest.mark.parametrize("name", walk())
def test_layers_are_torchs_own(name):
    model = on_meta(name)
    assert_layers_are_torchs_own(model)
    assert without_batch_norm(model.modules()) == (name in NO_BATCH_NORM)


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
@pytest.mark.parametrize("name", walk())
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


@pytest.mark.parametrize("name", walk())
def test_fx_traces_it_in_training_and_eval(name):
    model = small(name, **regularised(name)).double()
    x = images(model)
    for training in (True, False):
        traced = fx_traced(model.train(training))
        assert_equal_outputs(traced, model, x)
        if name in FIXED_SIZE:
            with refuses(ValueError, "image_size"):
                traced(torch.cat((x, x), dim=3))


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing the model in eval mode")  # without dropout
@pytest.mark.parametrize("name", walk())
def test_torchvision_extracts_features(name):
    model = small(name, **regularised(name)).double().eval()
    x = images(model)
    path = "stages.0" if len(model.stages) else "stem"
    expected = model.stages[0](model.stem(x)) if len(model.stages) else model.stem(x)
    extracted = create_feature_extractor(model, {path: "features"}).eval()(x)
    torch.testing.assert_close(extracted["features"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("training", TRAINING_FIRST)
@pytest.mark.parametrize("name", walk())
def test_jit_traces_it(name, training):
    model = small(name, **regularised(name)).double().train(training)
    assert_jit_traces(model, images(model), images(model, 3), gradients=training)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention is not batched, but computed in a loop
@pytest.mark.parametrize("training", TRAINING_FIRST)
@pytest.mark.parametrize("name", walk(without=NOT_BATCHED))
def test_vmap_computes_stacked_models(name, training):
    models = [small(name, dropout=0.0, drop_path=0.0).double().train(training) for _ in range(2)]
    assert_vmap_computes_stacked(models, images(models[0]))


@pytest.mark.parametrize("training", [True, False])
def test_vmap_computes_stacked_models_with_padding_shortcuts(training):
    models = [small("resnet_20", shortcut="A").double().train(training) for _ in range(2)]
    assert any(isinstance(module, PaddingShortcut) for module in models[0].modules())
    assert_vmap_computes_stacked(models, images(models[0]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", walk(without=NOT_BATCHED | (set(NAMES) - NO_BATCH_NORM)))
def test_gradients_of_each_sample_equal_those_of_a_loop(name):
    model = small(name, dropout=0.0).double()
    assert_gradients_of_each_sample(model, images(model, 2))


@pytest.mark.parametrize("name", walk())
def test_what_a_forward_hook_keeps_stays(name):
    model = small(name, **regularised(name)).train()
    assert_hooks_keep_what_they_see(model, images(model, dtype=torch.float32))


@pytest.mark.parametrize("name", walk())
def test_backward_hooks_run_on_every_leaf(name):
    model = small(name, **regularised(name)).train()
    called, fired = set(), set()
    for leaf in leaves(model):
        leaf.register_forward_hook(lambda module, *_: called.add(module))
        leaf.register_full_backward_hook(lambda module, *_: fired.add(module))
    model(images(model, dtype=torch.float32).requires_grad_()).square().sum().backward()
    assert called
    assert fired == called
