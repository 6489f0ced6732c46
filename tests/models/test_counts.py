"""Every named network has exactly the size of its paper, or of the network that the name stands for."""

import pytest
import torch

import cifarblocks

# name, arguments, parameters
COUNTS = [
    ("resnet_20", {}, 278_324),
    ("resnet_32", {}, 472_756),
    ("resnet_44", {}, 667_188),
    ("resnet_56", {}, 861_620),
    ("resnet_110", {}, 1_736_564),
    ("resnet_20", {"num_classes": 10, "shortcut": "A"}, 269_722),
    ("resnet_32", {"num_classes": 10, "shortcut": "A"}, 464_154),
    ("resnet_44", {"num_classes": 10, "shortcut": "A"}, 658_586),
    ("resnet_56", {"num_classes": 10, "shortcut": "A"}, 853_018),
    ("resnet_110", {"num_classes": 10, "shortcut": "A"}, 1_727_962),
    ("eca_resnet_20", {}, 278_351),
    ("eca_resnet_32", {}, 472_831),
    ("eca_resnet_56", {}, 861_701),
    ("ecanet20_fixed_k3", {}, 278_351),
    ("ecanet20_fixed_k5", {}, 278_369),
    ("ecanet20_fixed_k7", {}, 278_387),
    ("ecanet20_fixed_k9", {}, 278_405),
    ("ecanet20_adaptive", {}, 278_351),
    ("resnet20_no_eca", {}, 278_324),
    ("eca_resnet20_pos1", {}, 278_351),
    ("eca_resnet20_pos2", {}, 278_351),
    ("eca_resnet20_pos3", {}, 278_351),
    ("resnet_18", {"num_classes": 10}, 11_173_962),
    ("resnet_18", {"stem": "imagenet"}, 11_227_812),
    ("resnet_34", {"num_classes": 1000, "stem": "imagenet"}, 21_797_672),
    ("resnet_50", {"stem": "imagenet"}, 23_712_932),
    ("mlp", {"num_classes": 10}, 1_707_274),
    ("cnn", {"num_classes": 10}, 1_147_914),
]

# name, arguments, multiply-adds of one image
MULTIPLY_ADDS = [
    ("resnet_20", {}, 40_818_944),
    ("resnet_32", {}, 69_130_496),
    ("resnet_56", {}, 125_753_600),
    ("resnet_20", {"shortcut": "A"}, 40_556_800),
    ("resnet_32", {"shortcut": "A"}, 68_868_352),
    ("resnet_44", {"shortcut": "A"}, 97_179_904),
    ("resnet_56", {"shortcut": "A"}, 125_491_456),
    ("resnet_110", {"shortcut": "A"}, 252_893_440),
    ("resnet_18", {"num_classes": 1000, "stem": "imagenet", "image_size": 224}, 1_814_073_344),
    ("resnet_50", {"num_classes": 1000, "stem": "imagenet", "image_size": 224}, 4_089_184_256),
]


def on_meta(name, arguments):
    with torch.device("meta"):
        return cifarblocks.create_model(name, **arguments)


def test_every_name_is_in_the_table():
    assert {name for name, _, _ in COUNTS} == set(cifarblocks.list_models())


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameters(name, arguments, count):
    assert sum(p.numel() for p in on_meta(name, arguments).parameters()) == count


@pytest.mark.parametrize(("name", "arguments", "count"), MULTIPLY_ADDS)
def test_multiply_adds(name, arguments, count):
    assert cifarblocks.count_macs(on_meta(name, arguments)) == count
