import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cifarblocks


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
    with pytest.raises(ValueError, match="input_shape must be given for Linear"):
        cifarblocks.count_macs(nn.Linear(3, 3))


def test_the_model_is_left_as_it_is():
    model = cifarblocks.create_model("resnet_20").double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cifarblocks.count_macs(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"
