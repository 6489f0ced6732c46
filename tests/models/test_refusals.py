"""Values that no network can have are refused by name; names that it does not know are in test_arguments.py."""

import math

import pytest
import torch
from networks import NAMES, on_meta
from refusals import refuses

# A network, its arguments, and what the message must name beside the last of them and its value: what is allowed, and
# sizes as it writes them.
REFUSED = [
    ("resnet_20", {"num_classes": -1}, []),
    ("resnet_20", {"in_channels": 0}, []),
    ("resnet_20", {"image_size": 0}, []),
    ("resnet_20", {"image_size": (3, 32)}, [4, "3x32"]),
    ("resnet_20", {"drop_path": 1.0}, []),
    ("resnet_20", {"dropout": 1.5}, []),
    ("resnet_20", {"shortcut": "a"}, ["A", "B"]),
    ("resnet_20", {"attention": "squeeze"}, ["none", "eca", "se"]),
    ("resnet_20", {"position": 4}, []),
    ("eca_resnet_20", {"position": 4}, []),
    ("resnet_18", {"stem": "patch"}, ["cifar", "imagenet"]),
    ("cnn", {"image_size": (7, 32)}, [8, "7x32"]),
    ("patch_lstm", {"image_size": (32, 31)}, [2, "32x31"]),
    ("resnext18_dropout", {"stages": 2}, []),
    ("resnext18_dropout", {"stages": 6}, []),
    ("resnext18_dropout", {"stages": 5, "image_size": 32}, [64, "32x32"]),
    ("ghost_resnet_20", {"cheap": "linear"}, ["depthwise", "copy"]),
    ("ghost_resnet_20", {"ratio": 17}, [16]),
    ("ghost_resnet_20", {"cheap": "copy", "ratio": 0}, [1]),
    ("convnext_atto", {"image_size": (32, 31)}, [32, "32x31"]),
    ("convnext_atto_cifar", {"image_size": 7}, [8, "7x7"]),
    ("convnext_atto_cifar", {"drop_path": 1.0}, []),
    ("improved_resnet20_convnext", {"convolution": "dense"}, ["depthwise_7x7", "dense_3x3"]),
    ("improved_resnet20_convnext", {"expansion": 0}, []),
    ("hornet_tiny_gf", {"image_size": (224, 20)}, [32, "224x20"]),
    ("hornet_tiny_gf", {"image_size": 0}, []),
    ("segnext_mscan_tiny_cifar", {"strips": (3, 4)}, [4]),
    ("lsknet_small", {"in_channels": 0}, []),
    ("lsknet_tiny", {"image_size": 31}, [32, "31x31"]),
    ("coatnet_0", {"convolution": "mb"}, ["mbconv", "lsk_mbconv"]),
    ("coatnet_nano_cifar", {"attention": "squeeze"}, ["none", "eca", "se"]),
    ("coatnet_cifar_opt", {"attention": "squeeze"}, ["none", "eca", "se"]),
    ("resnext18_dropout", {"attention": "squeeze"}, ["none", "eca", "se"]),
    ("coatnet_0", {"image_size": (31, 64)}, [32, "31x64"]),
    ("coatnet_nano_cifar", {"in_channels": 0}, []),
    ("mlp_mixer_b16", {"image_size": (40, 32)}, [16, "40x32"]),
    ("vit_b_16", {"image_size": (224, 100)}, [16, "224x100"]),
    ("vit_tiny_cifar", {"image_size": (2, 32)}, [4, "2x32"]),
    ("nano_vit", {"in_channels": 0}, []),
    ("nano_vit", {"drop_path": -0.1}, []),
]


@pytest.mark.parametrize(("name", "arguments", "named"), REFUSED)
def test_refused_values_are_named(name, arguments, named):
    argument, value = list(arguments.items())[-1]
    with refuses(ValueError, argument, *named, *([] if named and argument in ("image_size", "strips") else [value])):
        on_meta(name, **arguments)


# An argument that a network has, and a value of a wrong type.
WRONG_TYPES = [
    ("resnet_20", {"num_classes": "10"}),
    ("resnet_20", {"num_classes": True}),
    ("resnet_20", {"in_channels": 3.0}),
    ("resnet_20", {"image_size": "32"}),
    ("resnet_20", {"image_size": (32, 8.5)}),
    ("resnet_20", {"drop_path": None}),
    ("resnet_20", {"position": 2.0}),
    ("cnn", {"dropout": "0.1"}),
    ("eca_resnet_20", {"kernel_size": 3.0}),
    ("convnext_atto_cifar", {"layer_scale": None}),
    ("ghost_resnet_20", {"ratio": 2.0}),
    ("improved_resnet20_convnext", {"expansion": 1.5}),
    ("resnext18_dropout", {"stages": 3.0}),
    ("segnext_mscan_tiny_cifar", {"strips": 7}),
]


@pytest.mark.parametrize(("name", "arguments"), WRONG_TYPES)
def test_wrong_types_are_refused_by_name(name, arguments):
    with refuses(TypeError, *arguments):
        on_meta(name, **arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("argument", "value"), [("in_channels", -1), ("dropout", math.nan), ("drop_path", math.inf)])
def test_every_network_refuses_numbers_that_make_no_sense(name, argument, value):
    with refuses(ValueError, argument, value):
        on_meta(name, **{argument: value})


def test_images_of_another_size_of_the_same_number_of_places_are_refused():
    with refuses(ValueError, "image_size", "32x32", "16x64"):
        on_meta("mlp_mixer_tiny")(torch.randn(1, 3, 16, 64, device="meta"))
