import pytest
import timm
from networks import assert_drawn, assert_equals_published
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet
from tools import slow
from torch import nn

import cifarblocks
import cifarblocks.models.resnest

LARGER = [slow(name) for name in ("resnest26d", "resnest50d")]


@pytest.mark.parametrize("name", ["resnest14d", *LARGER])
def test_equals_timm(name):
    assert_equals_published(name, timm.create_model(name, num_classes=7), "timm", (37, 33))


@pytest.mark.parametrize(
    ("name", "depths", "width"),
    [
        slow("resnest14d_cifar", [1, 1, 1, 1], 64),
        slow("resnest50d_cifar", [3, 4, 6, 3], 64),
        ("resnest_nano_cifar", [2, 2, 2, 2], 32),
    ],
)
def test_the_small_networks_equal_timm_with_a_small_stem(name, depths, width):
    theirs = ResNet(
        ResNestBottleneck,
        depths,
        num_classes=7,
        channels=tuple(width * 2**stage for stage in range(4)),
        stem_type="deep",
        stem_width=width // 2,
        avg_down=True,
        block_args={"radix": 2, "avd": True},
    )
    theirs.conv1[0].stride = (1, 1)
    theirs.maxpool = nn.Identity()
    assert_equals_published(name, theirs, "timm", (13, 10))


def test_convolutions_are_drawn_as_the_authors_do():
    conv = cifarblocks.create_model("resnest_nano_cifar").stages[3][0].attention.splits[0]  # 256 → 512 channels
    assert_drawn(conv.weight, (2 / (512 * 9)) ** 0.5)
