"""Attention modules by name: the module of each name, its place in each family, and registered ones."""

import inspect
import pydoc
from functools import partial

import pytest
import torch
from networks import on_meta
from refusals import refuses
from torch import nn

import cifarblocks
from cifarblocks import blocks
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PreActBlock
from cifarblocks.cli.show import description
from cifarblocks.models import attentions
from cifarblocks.models.resnext import StraightBottleneck
from cifarblocks.registry import find_model

GATES = dict(attentions._attentions)
SHIPPED = {
    "cbam": blocks.CBAM,
    "coordinate": blocks.CoordinateAttention,
    "eca": blocks.ECA,
    "global_context": blocks.GlobalContext,
    "lsk": blocks.LSKAttention,
    "msca": blocks.MSCA,
    "none": nn.Identity,
    "se": blocks.SqueezeExcite,
    "selective_kernel": blocks.SelectiveKernel,
    "simam": blocks.SimAM,
    "triplet": blocks.TripletAttention,
}
PATTERNS = ("resnet_*", "resnext*", "wrn_*")
NAMES = [name for pattern in PATTERNS for name in cifarblocks.list_models(pattern)]


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(attentions, "_attentions", dict(GATES))


def gates(model: nn.Module) -> list[nn.Module]:
    """The attention of each residual block, on its output channels."""
    found = []
    for block in model.modules():
        if isinstance(block, BasicBlock):
            assert type(block.attention1) is type(block.attention3) is nn.Identity
            found.append(block.attention2)
        elif isinstance(block, Bottleneck | PreActBlock | StraightBottleneck):
            found.append(block.attention)
    return found


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_names_are_those_of_the_blocks(table):
    assert cifarblocks.list_attentions() == sorted(GATES)
    assert {"se", "selective_kernel"} <= set(cifarblocks.list_attentions("se*")) < set(GATES)
    assert SHIPPED.keys() <= GATES.keys()
    for name, gate in (GATES | SHIPPED).items():
        assert attentions.find_attention(name) is gate


@pytest.mark.parametrize("attention", GATES)
@pytest.mark.parametrize("name", ["resnet_20", "resnet_18", "resnet_50", "resnext_29_32x4d", "wrn_16_4"])
def test_every_block_has_the_gate_and_the_network_has_its_parameters_more(name, attention):
    plain, gated = on_meta(name), on_meta(name, attention=attention)
    assert {type(gate) for gate in gates(gated)} == {GATES[attention]}
    assert len(gates(gated)) == sum(map(len, gated.stages))
    assert size(gated) == size(plain) + sum(map(size, gates(gated)))
    own = {path for path, _ in gated.named_parameters() if ".attention" not in path}
    assert own == {path for path, _ in plain.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_every_network_of_these_families_takes_an_attention(name):
    assert {type(gate) for gate in gates(on_meta(name, attention="simam"))} == {blocks.SimAM}
    assert inspect.signature(find_model(name)).parameters["attention"].default == "none"


@pytest.mark.parametrize("attention", GATES)
@pytest.mark.parametrize("name", ["resnet_20", "wrn_16_4"])
def test_a_network_with_any_gate_learns_with_all_of_it(name, attention):
    torch.manual_seed(0)
    model = cifarblocks.create_model(name, num_classes=3, attention=attention)
    x, labels = torch.randn(4, 3, 12, 9), torch.tensor([0, 1, 2, 0])
    nn.functional.cross_entropy(model(x), labels).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    assert model.eval()(x[:1]).isfinite().all()


def test_a_straight_bottleneck_gates_its_branch_alone():
    block = StraightBottleneck(32, 64, 2, drop_path=0.0, attention=blocks.SqueezeExcite).eval()
    x = torch.randn(2, 32, 5, 3)
    branch = block.expand(block.activation2(block.conv(block.activation1(block.reduce(x)))))
    torch.testing.assert_close(block(x), (block.shortcut(x) + block.attention(branch)).relu())


def test_a_pre_activation_block_gates_its_branch_alone():
    block = blocks.PreActBlock(4, 6, attention=partial(blocks.SqueezeExcite, hidden_channels=3)).eval()
    x = torch.randn(2, 4, 5, 3)
    z = block.activation1(block.norm1(x))
    branch = block.conv2(block.activation2(block.norm2(block.conv1(z))))
    torch.testing.assert_close(block(x), block.shortcut(z) + block.attention(branch))


@pytest.mark.parametrize("name", ["resnet_20", "resnet_50", "resnext_29_32x4d", "wrn_16_4"])
def test_help_and_show_say_what_attention_takes(name):
    function = find_model(name)
    for text in (pydoc.plain(pydoc.render_doc(function)), description(name)):
        (line,) = [line for line in text.splitlines() if "Attention of each block" in line]
        for gate in [*GATES, "register_attention"]:
            assert gate in line


@pytest.mark.parametrize("name", ["resnet_20", "resnet_18", "resnext_29_32x4d", "wrn_16_4"])
@pytest.mark.parametrize("wrong", ["ghost", "ECA", "", None, blocks.ECA])
def test_an_unknown_attention_is_refused_with_those_that_there_are(name, wrong):
    with refuses(ValueError, "attention", wrong, *GATES):
        on_meta(name, attention=wrong)


def test_a_name_that_is_not_registered_is_answered_with_the_way_to_register_it():
    with refuses(ValueError, "attention", "'mine'", "register_attention"):
        on_meta("resnet_20", attention="mine")


@pytest.mark.parametrize(
    ("gate", "hint"), [(blocks.MSCA, "did you mean 'msca'"), (blocks.GnConv, "register_attention")]
)
def test_a_class_in_place_of_its_name_is_answered_with_the_name(gate, hint):
    with refuses(ValueError, "attention", gate, hint):
        on_meta("resnet_20", attention=gate)
    with refuses(ValueError, "attention", "did you mean 'eca'"):
        on_meta("resnet_20", attention=blocks.ECA(16))


def test_a_gate_of_ones_own_is_taken_by_its_name(table):
    @cifarblocks.register_attention("doubled")
    class Doubled(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(2 * torch.ones(channels, 1, 1))

        def forward(self, x):
            return x * self.scale

    assert "doubled" in cifarblocks.list_attentions()
    gates_of_model = gates(on_meta("wrn_16_4", attention="doubled"))
    assert [gate.scale.shape[0] for gate in gates_of_model] == [64, 64, 128, 128, 256, 256]
    assert {type(gate) for gate in gates_of_model} == {Doubled}
    wide = partial(blocks.ECA, kernel_size=9)
    assert cifarblocks.register_attention("wide")(wide) is wide
    assert on_meta("resnet_20", attention="wide").stages[0][0].attention2.conv.kernel_size == (9,)


def test_a_second_gate_of_one_name_is_refused_and_the_first_stays(table):
    with refuses(ValueError, "'eca'", "cifarblocks.blocks.eca.ECA"):
        cifarblocks.register_attention("eca")(blocks.CBAM)
    assert attentions.find_attention("eca") is blocks.ECA
    wide = partial(blocks.ECA, kernel_size=9)
    cifarblocks.register_attention("wide")(wide)
    with refuses(ValueError, "'wide'", "partial"):
        cifarblocks.register_attention("wide")(wide)


@pytest.mark.parametrize("wrong", [blocks.ECA, None, 3])
def test_a_gate_without_a_name_is_refused(table, wrong):
    with refuses(TypeError, "name", "@register_attention(", wrong):
        cifarblocks.register_attention(wrong)


@pytest.mark.parametrize(("wrong", "named"), [(blocks.ECA(8), "got one"), ("eca", "'eca'"), (blocks.GnConv, "order")])
def test_what_builds_no_gate_is_refused(table, wrong, named):
    with refuses(TypeError, "attention", named):
        cifarblocks.register_attention("mine")(wrong)
    assert "mine" not in cifarblocks.list_attentions()


def test_a_gate_with_an_empty_name_is_refused(table):
    with refuses(ValueError, "name", "''"):
        cifarblocks.register_attention("")
    assert cifarblocks.list_attentions() == sorted(GATES)


@pytest.mark.parametrize("wrong", [None, 3, blocks.ECA])
def test_a_pattern_that_is_no_string_is_refused(wrong):
    with refuses(TypeError, "pattern", wrong):
        cifarblocks.list_attentions(wrong)
