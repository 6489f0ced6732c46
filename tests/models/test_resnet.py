import pytest
from networks import assert_drawn, assert_equals_published
from tools import slow
from torch import nn
from torchvision.models import resnet as reference

import cifarblocks
from cifarblocks.blocks import ECA, SqueezeExcite

SLOW = [slow(*pair) for pair in ((18, "imagenet"), (34, "cifar"), (50, "cifar"))]


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "imagenet"), *SLOW])
def test_equals_torchvision(depth, stem):
    theirs = getattr(reference, f"resnet{depth}")(num_classes=7)
    if stem == "cifar":  # as everybody writes it
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    assert_equals_published(f"resnet_{depth}", theirs, "torchvision", (40, 24), stem=stem)


@pytest.mark.parametrize(
    ("name", "arguments", "kernel_size", "position"),
    [
        ("eca_resnet_20", {}, 3, 2),
        ("eca_resnet_32", {}, 5, 2),
        ("eca_resnet_56", {}, 3, 2),
        ("eca_resnet_20", {"kernel_size": 7, "position": 1}, 7, 1),
        ("ecanet20_fixed_k9", {}, 9, 2),
        ("ecanet20_adaptive", {}, 3, 2),
        ("eca_resnet20_pos1", {}, 3, 1),
        ("eca_resnet20_pos3", {}, 3, 3),
    ],
)
def test_eca_is_in_every_block_where_its_name_says(name, arguments, kernel_size, position):
    model = cifarblocks.create_model(name, **arguments)
    gates = {path: module for path, module in model.named_modules() if isinstance(module, ECA)}
    blocks = sum(len(stage) for stage in model.stages)
    assert len(gates) == blocks
    for path, gate in gates.items():
        assert path.endswith(f".attention{position}")
        assert gate.conv.kernel_size == (kernel_size,)


@pytest.mark.parametrize(("attention", "gate"), [("none", nn.Identity), ("eca", ECA), ("se", SqueezeExcite)])
@pytest.mark.parametrize("position", [1, 2, 3])
def test_the_attention_of_a_plain_resnet_is_told_by_name(attention, gate, position):
    blocks = [
        block
        for stage in cifarblocks.create_model("resnet_20", attention=attention, position=position).stages
        for block in stage
    ]
    assert len(blocks) == 9
    for block in blocks:
        gates = [block.attention1, block.attention2, block.attention3]
        assert type(gates.pop(position - 1)) is gate
        assert all(type(other) is nn.Identity for other in gates)


def test_convolutions_are_drawn_as_he_et_al_do():
    model = cifarblocks.create_model("resnet_18")
    conv = model.stages[3][0].conv1.weight  # 256 → 512 channels: fan-in and fan-out differ
    assert_drawn(conv, (2 / (512 * 9)) ** 0.5)
