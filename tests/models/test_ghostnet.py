import pytest
import timm
import torch
from networks import assert_equals_published
from references import randomise_by_fan_in
from timm.models import ghostnet as reference
from tools import slow
from torch import nn
from torchvision.models.resnet import BasicBlock

import cifarblocks
import cifarblocks.models.ghostnet
from cifarblocks.blocks.ghost import CopyModule

LARGER = [slow(name) for name in ("ghostnet_100", "ghostnet_130")]


@pytest.mark.parametrize("name", ["ghostnet_050", *LARGER])
def test_equals_timm(name):
    assert_equals_published(name, timm.create_model(name, num_classes=7), "timm", (64, 38))


def test_the_small_network_equals_timm_with_its_strides():
    theirs = timm.create_model("ghostnet_100", num_classes=7)
    theirs.conv_stem.stride = (1, 1)
    block = theirs.blocks[1][0]  # the first of 24 channels
    block.conv_dw = block.bn_dw = None
    block.shortcut[0].stride = (1, 1)
    assert_equals_published("ghostnet_100_cifar", theirs, "timm", (32, 19))


class TheirBlock(BasicBlock):
    """torchvision's basic block with timm's ghost modules for its convolutions."""

    def __init__(self, c_in, c_out, stride, ratio):
        downsample = None
        if stride != 1:
            downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        super().__init__(c_in, c_out, stride, downsample)
        self.conv1 = reference.GhostModule(c_in, c_out, 3, ratio, 3, stride)
        self.conv2 = reference.GhostModule(c_out, c_out, 3, ratio, 3, act_layer=nn.Identity)
        self.bn1, self.relu1, self.bn2 = nn.Identity(), nn.Identity(), nn.Identity()


@torch.no_grad()
@pytest.mark.parametrize(("depth", "ratio"), [(20, 2), (20, 3), slow(32, 4)])
def test_ghost_resnet_equals_torchvisions_block_with_timms_modules(depth, ratio):
    theirs = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    channels = 16
    for width, first_stride in ((16, 1), (32, 2), (64, 2)):
        for place in range((depth - 2) // 6):
            theirs.append(TheirBlock(channels, width, 1 if place else first_stride, ratio))
            channels = width
    theirs.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 7)])
    theirs = randomise_by_fan_in(theirs.double()).eval()
    ours = cifarblocks.create_model(f"ghost_resnet_{depth}", num_classes=7, ratio=ratio).double().eval()
    # Both have the same tensors in the same order, but for their names.
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 17, 10, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


def test_copies_have_no_kernels():
    model = cifarblocks.create_model("ghost_resnet_20", cheap="copy", ratio=4)
    copies = [module for module in model.modules() if isinstance(module, CopyModule)]
    assert [(module.whole_copies, module.primary[0].kernel_size) for module in copies] == [(4, (3, 3))] * 18
    with_kernels = cifarblocks.create_model("ghost_resnet_20", ratio=4)
    cheap = sum(p.numel() for name, p in with_kernels.named_parameters() if ".cheap." in name)
    assert sum(p.numel() for p in model.parameters()) == 82_412 - cheap
