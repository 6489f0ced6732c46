import pytest
import torch
from torch import nn
from torchvision.models import resnet as reference

import cifarblocks
from cifarblocks.blocks import ECA, SqueezeExcite


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_equals_torchvision(depth, stem):
    theirs = getattr(reference, f"resnet{depth}")(num_classes=7).double().eval()
    ours = cifarblocks.create_model(f"resnet_{depth}", num_classes=7, stem=stem).double().eval()
    if stem == "cifar":  # as everybody writes it
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
        theirs.maxpool = nn.Identity()
    with torch.no_grad():
        for buffer in theirs.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    cifarblocks.load_published(ours, theirs.state_dict(), "torchvision")
    x = torch.randn(2, 3, 40, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


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
    assert conv.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("resnet_20", "kernel_size"),
        ("resnet_20", "depth"),
        ("ecanet20_fixed_k3", "kernel_size"),
        ("resnet_18", "block"),
    ],
)
def test_an_argument_that_the_name_fixes_is_refused(name, argument):
    with pytest.raises(TypeError, match=argument):
        cifarblocks.create_model(name, **{argument: 1})


def test_refused_arguments_are_named():
    with pytest.raises(ValueError, match=r"shortcut must be one of \['A', 'B'\], got 'a'"):
        cifarblocks.create_model("resnet_20", shortcut="a")
    with pytest.raises(ValueError, match=r"attention must be one of \['none', 'eca', 'se'\], got 'cbam'"):
        cifarblocks.create_model("resnet_20", attention="cbam")
    for name in ("resnet_20", "eca_resnet_20"):
        with pytest.raises(ValueError, match="^position must be 1, 2 or 3, got 4$"):
            cifarblocks.create_model(name, position=4)
    with pytest.raises(ValueError, match=r"stem must be one of \['cifar', 'imagenet'\], got 'patch'"):
        cifarblocks.create_model("resnet_18", stem="patch")
