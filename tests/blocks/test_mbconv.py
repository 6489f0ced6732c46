from functools import partial

import pytest
import torch
from references import assert_equal_modules, assert_equals_formula, batch_norm, convolution, randomise, rename_with
from timm.models import maxxvit
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConv as TorchvisionMBConv
from torchvision.models.efficientnet import MBConvConfig

from cifarblocks.blocks import ECA, InvertedResidual, LSKMBConv, MBConv

COATNET = {
    "shortcut.expand": "shortcut.1",
    "pre_norm": "norm",
    "conv1_1x1": "expand.0",
    "norm1": "expand.1",
    "conv2_kxk": "depthwise.0",
    "norm2": "depthwise.1",
    "se.fc1": "gate.reduce",
    "se.fc2": "gate.expand",
    "conv3_1x1": "project",
}
EFFICIENTNET = {"0": "expand", "1": "depthwise", "2.fc1": "gate.reduce", "2.fc2": "gate.expand", "3": "project"}
UNEXPANDED = {"0": "depthwise", "1.fc1": "gate.reduce", "1.fc2": "gate.expand", "2": "project"}


@pytest.mark.parametrize(
    ("c_in", "c_out", "stride", "expansion"), [(8, 8, 1, 4), (8, 12, 2, 4), (12, 12, 2, 4), (8, 16, 2, 3)]
)
def test_coatnets_form_equals_timm(c_in, c_out, stride, expansion):
    configuration = maxxvit.MaxxVitConvCfg(stride_mode="1x1", pool_type="max", expand_ratio=float(expansion))
    theirs = maxxvit.MbConvBlock(c_in, c_out, stride, cfg=configuration)
    ours = MBConv(c_in, c_out, stride, expansion)
    assert_equal_modules(ours, theirs, torch.randn(2, c_in, 7, 4), partial(rename_with, COATNET))


def test_coatnets_form_with_another_gate_equals_timm():
    configuration = maxxvit.MaxxVitConvCfg(stride_mode="1x1", pool_type="max", attn_layer="eca")
    theirs = maxxvit.MbConvBlock(8, 12, 2, cfg=configuration)
    rename = partial(rename_with, COATNET | {"se": "gate"})
    assert_equal_modules(MBConv(8, 12, 2, gate=ECA), theirs, torch.randn(2, 8, 7, 4), rename)


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(8, 8, 1), (8, 16, 1), (8, 16, 2), (16, 16, 2)])
@pytest.mark.parametrize(("kernel_size", "expansion"), [(3, 4), (5, 4), (3, 6), (3, 1)])
def test_efficientnets_form_equals_torchvision(c_in, c_out, stride, kernel_size, expansion):
    theirs = TorchvisionMBConv(MBConvConfig(expansion, kernel_size, stride, c_in, c_out, 1), 0.0, nn.BatchNorm2d)
    ours = InvertedResidual(c_in, c_out, stride, expansion, kernel_size=kernel_size)
    names = EFFICIENTNET if expansion > 1 else UNEXPANDED
    rename = lambda name: rename_with(names, name.removeprefix("block."))  # noqa: E731
    assert_equal_modules(ours, theirs, torch.randn(2, c_in, 7, 4), rename)


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def matrix(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return torch.einsum("oc,b...c->b...o", conv.weight.flatten(1), x)


def lsk_mbconv(x: Tensor, module: LSKMBConv, stride: int, training: bool) -> Tensor:
    """The formulas of the block, each branch an explicit sum over its kernel."""
    conv, norm, _ = module.expand
    z = relu6(batch_norm(convolution(x, conv), norm, training))
    branches = []
    for conv, norm, _ in module.branches:
        branches.append(relu6(batch_norm(convolution(z, conv, stride), norm, training)))
    pixels = branches[0].shape[2] * branches[0].shape[3]
    averages = sum(branch.sum((2, 3)) for branch in branches) / pixels
    logits = matrix(matrix(averages, module.select[0]).clamp(min=0), module.select[2])
    exponentials = logits.view(len(x), len(branches), -1).exp()
    shares = exponentials / exponentials.sum(1, keepdim=True)
    chosen = torch.einsum("bkc,kbchw->bchw", shares, torch.stack(branches))
    hidden = relu6(matrix(chosen.sum((2, 3)) / pixels, module.gate.reduce) + module.gate.reduce.bias)
    gates = 1 / (1 + torch.exp(-matrix(hidden, module.gate.expand) - module.gate.expand.bias))
    conv, norm, _ = module.project
    gated = torch.einsum("bc,bchw->bchw", gates, chosen)
    y = batch_norm(convolution(gated, conv), norm, training)
    return y + x if y.shape == x.shape else y


@pytest.mark.parametrize(("c_out", "stride"), [(3, 1), (4, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_lsk_mbconv_is_its_formula(c_out, stride, training):
    module = randomise(LSKMBConv(3, c_out, stride, reduction=1)).double().train(training)
    x = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    assert_equals_formula(module, lambda x: lsk_mbconv(x, module, stride, training), x)


def test_the_choice_is_never_made_from_nothing():
    assert LSKMBConv(1, 4, expansion=2, reduction=16).select[0].out_channels == 1


@pytest.mark.parametrize("build", [InvertedResidual, MBConv, LSKMBConv])
def test_another_gate_is_built_for_the_hidden_channels_and_takes_the_place_of_the_blocks_own(build):
    hidden = []

    def nothing(channels: int) -> nn.Module:
        hidden.append(channels)
        return nn.Identity()

    torch.manual_seed(0)
    block = build(8, 8, gate=nothing).eval()
    assert hidden == [32]
    own = build(8, 8).eval()
    own.load_state_dict(block.state_dict(), strict=False)
    own.gate.register_forward_hook(lambda module, args, y: args[0])
    x = torch.randn(2, 8, 5, 4)
    torch.testing.assert_close(block(x), own(x))
