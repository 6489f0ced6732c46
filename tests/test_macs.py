import functools
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_use import USES, Group, train_one_step
from networks import images, small
from refusals import refuses
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import cifarblocks
from cifarblocks.macs import count_macs_of_parts


@given(*[st.integers(1, 9)] * 4, st.sampled_from([1, 3, 5]), st.integers(1, 3))
def test_a_convolution_costs_its_closed_form(c_in, c_out, h, w, k, stride):
    conv = nn.Conv2d(c_in, c_out, k, stride, padding=k // 2)
    positions = -(-h // stride) * -(-w // stride)
    assert cifarblocks.count_macs(conv, (2, c_in, h, w)) == 2 * positions * c_out * c_in * k * k


def test_grouped_convolutions_and_linear_layers():
    assert cifarblocks.count_macs(nn.Conv2d(8, 16, 3, padding=1, groups=4), (1, 8, 5, 7)) == 5 * 7 * 16 * 2 * 9
    assert cifarblocks.count_macs(nn.Linear(12, 7), (3, 12)) == 3 * 12 * 7
    assert cifarblocks.count_macs(nn.BatchNorm2d(4), (1, 4, 2, 2)) == 0


def test_the_models_own_image_is_the_default():
    model = cifarblocks.create_model("resnet_20", image_size=(32, 64), in_channels=1)
    assert cifarblocks.count_macs(model) == cifarblocks.count_macs(model, (1, 1, 32, 64))
    with refuses(ValueError, "input_shape", "Linear"):
        cifarblocks.count_macs(nn.Linear(3, 3))


def test_the_model_is_left_as_it_is():
    model = cifarblocks.create_model("resnet_20").double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cifarblocks.count_macs(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("name", ["resnet_20", "vit_nano_cifar"])
def test_a_model_in_use_costs_the_same(name, use):
    plain = small(name)
    expected = count_macs_of_parts(plain)
    with Group():
        model = USES[use](small(name))
        train_one_step(model, images(plain, dtype=torch.float32))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert count_macs_of_parts(model) == expected
        assert cifarblocks.count_macs(model) == cifarblocks.count_macs(plain)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hooks_of_the_user_do_not_run():
    calls, model = [], nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

    class Unusual:
        def __init__(self):
            self.lock = threading.Lock()  # which deepcopy refuses

        def __call__(self, *_, **__):
            calls.append(self)

    def called(*_, **__):
        calls.append(called)

    for part in model.modules():
        for hook in (called, Unusual(), functools.partial(called, 1)):
            part.register_forward_hook(hook)
            part.register_forward_pre_hook(hook, with_kwargs=True)
            part.register_forward_hook(hook, always_call=True)
    handles = [register_module_forward_hook(called), register_module_forward_pre_hook(called)]
    try:
        assert cifarblocks.count_macs(model, (1, 4)) == 48
        assert not calls
        model(torch.randn(1, 4))
        assert len(calls) == 3 * 9 + 3 * 2  # they are still there
    finally:
        for handle in handles:
            handle.remove()


class FromHook(nn.Module):
    """A model that needs its own hook, as timm's FeatureHookNet does."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.body.register_forward_hook(functools.partial(self.keep, "features"))

    def keep(self, name, module, inputs, output):
        setattr(self, name, output)

    def forward(self, x):
        self.body(x)
        return self.head(self.features)


def test_hooks_of_the_model_itself_run_in_its_copy():
    model = FromHook()
    assert cifarblocks.count_macs(model, (1, 4)) == 48
    assert not hasattr(model, "features")


def test_plain_tensors_of_a_module_are_counted_with():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.randn(4, 8)

        def forward(self, x):
            assert x.device == self.matrix.device
            return x @ self.matrix

    model = Scaled()
    assert cifarblocks.count_macs(model, (3, 4)) == 3 * 4 * 8
    assert not model.matrix.is_meta


class Vectors(nn.Module):
    """A product of a matrix and a vector, alone and with a sum, and two of vectors."""

    def __init__(self, rows, columns):
        super().__init__()
        self.matrix, self.sum = torch.randn(rows, columns), torch.randn(rows)
        self.vector, self.other = torch.randn(columns), torch.randn(columns, dtype=torch.complex64)

    def forward(self, x):
        products = self.matrix @ self.vector, torch.addmv(self.sum, self.matrix, self.vector)
        return x, products, self.vector @ self.vector, torch.vdot(self.other, self.other)


@pytest.mark.parametrize(("rows", "columns"), [(5, 4), (1, 7), (0, 7), (7, 0)])
def test_products_with_a_vector_are_counted(rows, columns):
    assert cifarblocks.count_macs(Vectors(rows, columns), (1,)) == 2 * rows * columns + 2 * columns
