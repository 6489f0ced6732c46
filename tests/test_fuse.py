"""fuse: the same function, without the norms and scales that fold into their neighbours."""

import pytest
import torch
from networks import LARGE, NAMES, NO_MAPS, build, walk
from properties import GENERIC
from references import randomise
from timm.layers import BatchNormAct2d
from torch import nn

import cifarblocks
from cifarblocks import blocks
from cifarblocks.blocks import LayerScale

# What remains: a norm whose output two layers read, and one with padding, a gate or an activation before its layer.
READ_TWICE = {"LSKBlock": ["attention_norm"], "MSCABlock": ["attention_norm"]}
READ_THROUGH_AN_ACTIVATION = {"PreActBlock": ["norm1"]}
REMAINING = READ_TWICE | READ_THROUGH_AN_ACTIVATION | {"BatchNorm2d": [""]}
SCALES = {"LSKBlock": ["attention_scale"], "MSCABlock": ["attention_scale"], "LayerScale": [""]}


def of_kind(module, kind):
    return [name for name, part in module.named_modules() if isinstance(part, kind)]


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", sorted(GENERIC))
def test_a_fused_block_computes_the_same_in_fewer_steps(name, layout):
    case = GENERIC[name]
    module, x = randomise(case.build().double()), case.input(2, 7, 5, torch.float64)
    if case.tokens is None:
        module, x = module.to(memory_format=layout), x.to(memory_format=layout)
    fused = cifarblocks.fuse(module)
    torch.testing.assert_close(fused(x), module.eval()(x), rtol=1e-10, atol=1e-10)
    assert of_kind(fused, nn.BatchNorm2d) == REMAINING.get(name, [])
    assert of_kind(fused, LayerScale) == SCALES.get(name, [])


@torch.no_grad()
@pytest.mark.parametrize("name", walk(NAMES, LARGE))
def test_a_fused_classifier_computes_the_same(name):
    model = build(name).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | LayerScale):
            randomise(module)
    fused = cifarblocks.fuse(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = model.eval()(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())
    kept = {path.split(".")[-1] for path in of_kind(fused, nn.BatchNorm2d)}
    assert kept <= {"norm1", "attention_norm", "0"} - ({"0"} if name not in ("wrn_16_4", "wrn_28_10") else set())
    if name not in NO_MAPS:
        assert len(fused.feature_maps(x)) == len(model.feature_maps(x))


def test_the_model_itself_is_left_as_it_was():
    model = cifarblocks.create_model("ghost_resnet_20").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cifarblocks.fuse(model)
    assert model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_has_no_statistics_stays():
    conv = nn.Conv2d(3, 4, 3)
    fused = cifarblocks.fuse(nn.Sequential(conv, nn.BatchNorm2d(4, track_running_stats=False)))
    assert isinstance(fused[1], nn.BatchNorm2d)
    bare = nn.Sequential(conv, nn.BatchNorm2d(4, affine=False))
    bare[1].running_mean.normal_()
    bare[1].running_var.uniform_(1, 2)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(cifarblocks.fuse(bare)(x), bare.eval()(x))


def test_dtype_and_layout_stay():
    model = blocks.BasicBlock(8, 8).bfloat16().to(memory_format=torch.channels_last)
    fused = cifarblocks.fuse(model)
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.bfloat16}
    assert fused.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("trainable", [True, False])
def test_what_is_frozen_stays_frozen(trainable):
    model = blocks.ConvNeXtBlock(8).requires_grad_(trainable)
    fused = cifarblocks.fuse(nn.Sequential(model, blocks.BasicBlock(8, 8).requires_grad_(trainable)))
    assert {parameter.requires_grad for parameter in fused.parameters()} == {trainable}


class TwoNorms(nn.Module):
    """One convolution, and a norm for each of its two uses."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Sequential(conv, nn.BatchNorm2d(4))
        self.second = nn.Sequential(conv, nn.BatchNorm2d(4))

    def forward(self, x):
        return self.second(self.first(x))


class WithReLUBetween(nn.Sequential):
    """A Sequential by its parts, and not by what it does."""

    def forward(self, x):
        return self[1](self[0](x).relu())


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights are standardised when it is called."""

    def forward(self, x):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class DoubledConv2d(nn.Conv2d):
    """A convolution that overrides what torch's `forward` calls."""

    def _conv_forward(self, x, weight, bias):
        return 2 * super()._conv_forward(x, weight, bias)


class DoubledScale(LayerScale):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(sequential):
    """What a convolution does is replaced on the object."""
    sequential[0].forward = lambda x: torch.ones_like(x)
    return sequential


def hooked(sequential):
    """What a convolution gives is doubled."""
    sequential[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return sequential


def twice(part):
    return nn.Sequential(part, nn.ReLU(), part)


@pytest.mark.parametrize(
    ("build", "norms"),
    [
        (TwoNorms, 2),
        (lambda: twice(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), 0),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)), 1),
        (lambda: hooked(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), 1),
        (lambda: WithReLUBetween(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(StandardisedConv2d(4, 4, 1), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(DoubledConv2d(4, 4, 1), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), BatchNormAct2d(4)), 1),
        (lambda: replaced(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), 1),
    ],
    ids=[
        "a convolution in two places",
        "a pair in two places",
        "parametrised",
        "reparametrised by a hook",
        "hooked",
        "a Sequential with a forward of its own",
        "a convolution with a forward of its own",
        "a convolution with a _conv_forward of its own",
        "timm's norm with an activation",
        "a convolution whose forward was replaced",
    ],
)
@torch.no_grad()
def test_what_does_not_follow_straight_or_is_computed_stays(build, norms):
    model, x = randomise(build().double()).eval(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    fused = cifarblocks.fuse(model)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-10, atol=1e-10)
    assert len(of_kind(fused, nn.BatchNorm2d)) == norms


@torch.no_grad()
def test_a_scale_that_computes_something_else_stays():
    block, x = randomise(blocks.ConvNeXtBlock(4).double()), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    block.scale = randomise(DoubledScale(4, 0.1).double())
    torch.testing.assert_close(cifarblocks.fuse(block)(x), block(x), rtol=1e-10, atol=1e-10)


def test_no_part_of_the_fused_network_is_in_training():
    """Split-attention refuses one image in training, by the mode of a norm that is folded here."""
    fused = cifarblocks.fuse(cifarblocks.create_model("resnest_nano_cifar", num_classes=10).eval())
    assert not any(module.training for module in fused.modules())
    assert fused(torch.randn(1, 3, 32, 32)).shape == (1, 10)
