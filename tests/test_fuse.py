"""fuse: the same function, without the norms and scales that fold into their neighbours."""

import copy

import pytest
import torch
from in_use import FOLDED, USES, WRAPPED, Group, train_one_step
from networks import NO_MAPS, images, small, walk
from properties import GENERIC, Case
from references import randomise
from timm.layers import BatchNormAct2d
from tools import replace_norms
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import cifarblocks
from cifarblocks import blocks
from cifarblocks.blocks import LayerScale
from cifarblocks.fused_blocks import FUSED
from cifarblocks.native.packed import PackedConv2d, PackedLinear

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
    assert_same(fused, module, x)
    assert of_kind(fused, nn.BatchNorm2d) == REMAINING.get(name, [])
    assert of_kind(fused, LayerScale) == SCALES.get(name, [])


@torch.no_grad()
@pytest.mark.parametrize("name", walk())
def test_a_fused_classifier_computes_the_same(name):
    model = small(name).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | LayerScale):
            randomise(module)
    fused, x = cifarblocks.fuse(model), images(model)
    expected = model.eval()(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())
    kept = {path.split(".")[-1] for path in of_kind(fused, nn.BatchNorm2d)}
    assert kept <= {"norm1", "attention_norm", "0"} - ({"0"} if name not in ("wrn_16_4", "wrn_28_10") else set())
    if name not in NO_MAPS:
        assert len(fused.feature_maps(x)) == len(model.feature_maps(x))


PACKED = {name: case for name, case in GENERIC.items() if type(case.build()) in FUSED}
PACKED |= {
    "plain BasicBlock": Case(lambda: blocks.BasicBlock(16, 16), 16, 16),
    "plain Bottleneck": Case(lambda: blocks.Bottleneck(16, 8, 2), 16, 32, 2),
    "plain ConvNeXtBlock": Case(lambda: blocks.ConvNeXtBlock(16, layer_scale=1.0), 16, 16),
    "InvertedResidual with a shortcut": Case(lambda: blocks.InvertedResidual(16, 16), 16, 16),
    "PreActBlock with a shortcut": Case(lambda: blocks.PreActBlock(16, 16), 16, 16),
}


@pytest.fixture
def packed_layers(monkeypatch):
    """The layers that have packed their weights."""
    found = set()
    for kind in (PackedConv2d, PackedLinear):
        pack = kind.pack
        monkeypatch.setattr(kind, "pack", lambda self, x, pack=pack: found.add(self) or pack(self, x))
    return found


def distance(y, expected):
    return ((y.double() - expected).norm() / expected.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_fused_block_computes_the_same_with_packed_layers(name, packed_layers):
    case = PACKED[name]
    module = randomise(case.build().double()).eval()
    fused = cifarblocks.fuse(module)
    assert type(fused) is FUSED[type(module)].block or name == "ConvNeXtBlock"  # GRN follows the activation
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.04)):
        model = copy.deepcopy(fused).to(dtype).to(memory_format=torch.channels_last)
        for batch in (2, 3):
            x = case.input(batch, 8, 6, torch.float64)
            near = x.to(dtype) if x.ndim == 3 else x.to(dtype).to(memory_format=torch.channels_last)
            assert distance(model(near), module(x)) < bound
    assert packed_layers


@torch.no_grad()
@pytest.mark.parametrize("name", walk())
def test_a_classifier_with_packed_layers_computes_the_same(name, packed_layers):
    model = small(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | LayerScale):
            randomise(module)
    fused, x = cifarblocks.fuse(model).to(memory_format=torch.channels_last), images(model, dtype=torch.float32)
    expected = model.double()(x.double())
    assert distance(fused(x.to(memory_format=torch.channels_last)), expected) < 1e-5
    assert packed_layers or name in NO_MAPS


@torch.no_grad()
def test_in_training_a_fused_block_drops_paths_and_can_be_trained():
    fused = cifarblocks.fuse(blocks.BasicBlock(16, 16, drop_path=0.5)).to(memory_format=torch.channels_last)
    x = torch.randn(64, 16, 4, 4).to(memory_format=torch.channels_last)
    whole, dropped = fused(x), fused.train()(x)
    kept = torch.isclose(dropped, whole, atol=1e-5).flatten(1).all(1)
    assert not kept.any()
    assert torch.isclose(dropped, x.relu(), atol=1e-5).flatten(1).all(1).any()
    with torch.enable_grad():
        fused.eval()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())


def test_the_state_dict_of_a_fused_model_is_plain_and_loads():
    fused = cifarblocks.fuse(cifarblocks.create_model("resnet_20", num_classes=10)).bfloat16()
    x = torch.randn(2, 3, 32, 32).bfloat16().to(memory_format=torch.channels_last)
    other = cifarblocks.fuse(cifarblocks.create_model("resnet_20", num_classes=10)).bfloat16()
    with torch.no_grad():
        y = fused.to(memory_format=torch.channels_last)(x)
        other.to(memory_format=torch.channels_last)(x)
        other.load_state_dict(fused.state_dict())
        assert torch.equal(other(x), y)
    assert {key.split(".")[-1] for key in fused.state_dict()} == {"weight", "bias"}


def test_the_model_itself_is_left_as_it_was():
    model = cifarblocks.create_model("ghost_resnet_20").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cifarblocks.fuse(model)
    assert model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


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
    """Replace the forward of a convolution on the object."""
    sequential[0].forward = lambda x: torch.ones_like(x)
    return sequential


def hooked(sequential):
    """Double the output of a convolution."""
    sequential[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return sequential


def twice(part):
    return nn.Sequential(part, nn.ReLU(), part)


def pair(conv=None, norm=None, sequence=nn.Sequential):
    return sequence(conv or nn.Conv2d(4, 4, 1), norm or nn.BatchNorm2d(4))


# What is built, and the norms that stay.
STAYS = {
    "a convolution in two places": (TwoNorms, 2),
    "a pair in two places": (lambda: twice(pair()), 0),
    "parametrised": (lambda: pair(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))), 1),
    "reparametrised by a hook": (lambda: pair(nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))), 1),
    "hooked": (lambda: hooked(pair()), 1),
    "a Sequential with a forward of its own": (lambda: pair(sequence=WithReLUBetween), 1),
    "a convolution with a forward of its own": (lambda: pair(StandardisedConv2d(4, 4, 1)), 1),
    "a convolution with a _conv_forward of its own": (lambda: pair(DoubledConv2d(4, 4, 1)), 1),
    "timm's norm with an activation": (lambda: pair(norm=BatchNormAct2d(4)), 1),
    "a convolution whose forward was replaced": (lambda: replaced(pair()), 1),
}


@pytest.mark.parametrize(("build", "norms"), STAYS.values(), ids=STAYS)
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


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("name", ["resnet_20", "coatnet_nano_cifar"])
def test_a_model_in_use_is_fused_where_it_is_right_to(name, use):
    with Group():
        model = randomise(small(name).double())
        x = images(model)
        model = USES[use](model)
        train_one_step(model, x)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        fused = cifarblocks.fuse(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    inner = model.module if use in WRAPPED else model
    assert type(fused) is type(inner)
    assert_same(fused, inner, x)
    left = len(of_kind(fused, nn.BatchNorm2d))
    assert left < len(of_kind(model, nn.BatchNorm2d)) if use in FOLDED else left == len(of_kind(model, nn.BatchNorm2d))


def assert_same(fused, model, x):
    with torch.no_grad():
        expected = model.eval()(x)
        scale = expected.abs().max().item()
        torch.testing.assert_close(fused(x), expected, rtol=1e-10, atol=1e-10 * scale)


def test_hooks_run_in_the_copy():
    calls, model = [], randomise(nn.Sequential(*pair(), *pair()).double())
    model[0].register_forward_hook(lambda module, inputs, output: calls.append(output))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    fused = cifarblocks.fuse(model)
    assert len(of_kind(fused, nn.BatchNorm2d)) == 1
    assert_same(fused, model, x)
    assert len(calls) == 2
    torch.testing.assert_close(*calls)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_layer_with_a_hook_of_any_kind_stays(place, kind):
    model = pair()
    getattr(model[place], f"register_{kind}")(lambda *_: None)
    assert of_kind(cifarblocks.fuse(model), nn.BatchNorm2d) == ["1"]


NORMS = {
    "BatchNorm2d": nn.BatchNorm2d,
    "no momentum": lambda c: nn.BatchNorm2d(c, momentum=None),
    "no affine weights": lambda c: nn.BatchNorm2d(c, affine=False),
    "no bias": lambda c: without_bias(nn.BatchNorm2d(c)),
    "another eps": lambda c: nn.BatchNorm2d(c, eps=0.1),
    "SyncBatchNorm": nn.SyncBatchNorm,
    "FrozenBatchNorm2d": lambda c: FrozenBatchNorm2d(c, eps=0.1),
    "a subclass of BatchNorm2d": type("SubclassedNorm", (nn.BatchNorm2d,), {}),
    "a subclass of FrozenBatchNorm2d": type("SubclassedFrozenNorm", (FrozenBatchNorm2d,), {}),
}


def without_bias(norm):
    norm.register_parameter("bias", None)
    return norm


class DoubledFrozenNorm(FrozenBatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def kinds(module, name):
    return [path for path, part in module.named_modules() if name in [kind.__name__ for kind in type(part).__mro__]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck", "LSKBlock", "MBConv", "GhostModule"])
def test_norms_of_other_kinds_are_folded(block, norm, training):
    case = GENERIC[block]
    model = randomise(replace_norms(case.build(), NORMS[norm]).double()).train(training)
    for part in model.modules():  # statistics of a FrozenBatchNorm2d too
        if "running_var" in part._buffers:
            for buffer in ("running_mean", "running_var"):
                part._buffers[buffer].uniform_(0.5, 2)
    fused = cifarblocks.fuse(model)
    assert_same(fused, model, case.input(2, 7, 5, torch.float64))
    names = kinds(fused, "_BatchNorm") + kinds(fused, "FrozenBatchNorm2d")
    assert names == REMAINING.get(block, [])


def test_converted_to_synchronised_norms_of_a_process_group():
    with Group():
        group = torch.distributed.new_group([0])  # deepcopy refuses it
        model = nn.SyncBatchNorm.convert_sync_batchnorm(blocks.BasicBlock(4, 4), group)
        fused = cifarblocks.fuse(randomise(model.double()))
        assert cifarblocks.count_macs(model, (1, 4, 5, 5)) == 2 * 4 * 4 * 9 * 25
    assert not of_kind(fused, nn.SyncBatchNorm)
    assert_same(fused, model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


class NotFrozen(nn.Module):
    """The four buffers and no parameters, under another name, and computing something else."""

    def __init__(self, channels):
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x):
        return x.relu()


@pytest.mark.parametrize(
    "norm",
    [
        DoubledFrozenNorm,
        NotFrozen,
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: nn.GroupNorm(1, c),
        lambda c: nn.InstanceNorm2d(c, affine=True),
    ],
)
def test_what_is_no_fixed_norm_stays(norm):
    model = randomise(replace_norms(blocks.BasicBlock(4, 4), norm).double())
    kept = type(model.norm1)
    fused = cifarblocks.fuse(model)
    assert type(fused.norm1) is kept
    assert_same(fused, model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


class Named(blocks.BasicBlock):
    """A subclass whose `forward` is ours."""

    def __init__(self, channels):
        super().__init__(channels, channels)
        self.name = "mine"


class WithSquare(blocks.BasicBlock):
    """A subclass with a `forward` of its own."""

    def forward(self, x):
        return self.norm1(self.conv1(x) ** 2)


@pytest.mark.parametrize(("block", "left"), [(Named(4), 0), (WithSquare(4, 4), 2)])
def test_a_subclass_is_folded_if_its_forward_is_ours(block, left):
    model = randomise(block.double())
    fused = cifarblocks.fuse(model)
    assert type(fused) is type(model)
    assert len(of_kind(fused, nn.BatchNorm2d)) == left
    assert_same(fused, model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


class NegatedGnConv(blocks.GnConv):
    def forward(self, x):
        return super().forward(x).relu()


def changed(block, name, part):
    setattr(block, name, part)
    return block


def with_mlp(change):
    block = blocks.MSCABlock(4, 2)
    return changed(block, "mlp", change(block.mlp))


def begun(mlp, first):
    return nn.Sequential(first, *mlp[1:])


def hooked_inside(block, path, function):
    """A hook changes the output of a part."""
    block.get_submodule(path).register_forward_hook(lambda module, inputs, output: function(output))
    return block


AROUND = {
    "a hook on the MLP of LSKBlock": lambda: hooked_inside(blocks.LSKBlock(4, 2), "mlp", torch.relu),
    "a hook on the gnConv of HorNetBlock": lambda: hooked_inside(blocks.HorNetBlock(4, 2), "gnconv", torch.sin),
    "a hook on the dropout after the MLP": lambda: hooked_inside(blocks.LSKBlock(4, 2), "mlp.5", torch.exp),
    "a gnConv of another forward": lambda: changed(blocks.HorNetBlock(4, 2), "gnconv", NegatedGnConv(4, 2)),
    "an MLP that ends in ReLU": lambda: with_mlp(lambda mlp: nn.Sequential(*mlp, nn.ReLU())),
    "an MLP that begins with ReLU": lambda: with_mlp(lambda mlp: nn.Sequential(nn.ReLU(), *mlp)),
    "an MLP that begins with padding": lambda: with_mlp(lambda mlp: begun(mlp, nn.Conv2d(4, 8, 3, padding=1))),
    "an MLP that begins with groups": lambda: with_mlp(lambda mlp: begun(mlp, nn.Conv2d(4, 8, 1, groups=2))),
    "an MLP that two blocks share": lambda: shared(blocks.LSKBlock(4, 2), blocks.LSKBlock(4, 2)),
}


def shared(first, second):
    second.mlp = first.mlp
    return nn.Sequential(first, second)


@pytest.mark.parametrize("case", sorted(AROUND))
def test_nothing_is_folded_across_what_does_more_than_its_parts(case):
    model = randomise(AROUND[case]().double())
    for part in model.modules():
        if isinstance(part, LayerScale):
            nn.init.normal_(part.gamma)  # negative ones too: a ReLU cannot be exchanged with them
    assert_same(cifarblocks.fuse(model), model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_with_a_parametrised_weight_or_bias_stays(place, name):
    model = randomise(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).double())
    nn.utils.parametrize.register_parametrization(model[place], name, Doubled())
    fused = cifarblocks.fuse(model)
    assert of_kind(fused, nn.BatchNorm2d) == ["1"]
    assert_same(fused, model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


def test_weights_that_are_not_plain_parameters_stay():
    """A tensor subclass in a parameter, as torchao's quantised weights are."""

    class Quantised(torch.Tensor):
        def __deepcopy__(self, memo):
            return nn.Parameter(self.detach().clone().as_subclass(Quantised))

    model = randomise(blocks.ConvNeXtBlock(4).double())
    model.project.weight = nn.Parameter(model.project.weight.detach().as_subclass(Quantised))
    fused = cifarblocks.fuse(model)
    assert isinstance(fused.project.weight, Quantised)
    assert isinstance(fused.scale, LayerScale)
