"""The classifiers to walk: which take long, which cannot do what, and how to build them."""

from typing import Any

import pytest
import torch
from test_counts import COUNTS
from torch import Tensor, nn

import cifarblocks
from cifarblocks.blocks import LayerScale
from cifarblocks.models.classifier import Classifier

NAMES = cifarblocks.list_models()
FIXED_SIZE = {"cnn", "mlp", "patch_lstm", "nano_vit", "vit_nano_cifar", "vit_tiny_cifar", "vit_tiny_16", "vit_b_16"}
FIXED_SIZE |= {"mlp_mixer_tiny", "mlp_mixer_cifar", "mlp_mixer_s16", "mlp_mixer_b16"}
PAPER_SIZE = {"coatnet_0", "coatnet_0_custom_enhanced", "coatnet_1", "coatnet_2", "hornet_small_gf", "hornet_tiny_gf"}
PAPER_SIZE |= {"mlp_mixer_b16", "mlp_mixer_s16", "vit_b_16", "vit_tiny_16"}  # 224 pixels unless told otherwise
NO_MAPS = {"mlp"}
NO_DROP_PATH = {"cnn", "mlp", "patch_lstm"}
NO_BATCH_NORM = {"mlp", "patch_lstm", *cifarblocks.list_models("mlp_mixer_*"), *cifarblocks.list_models("*vit*")}
NO_BATCH_NORM |= {*cifarblocks.list_models("convnext_*"), *cifarblocks.list_models("hornet_*")}
NOT_WHOLE = {"patch_lstm"}  # torch compiles an LSTM as a graph of its own
# One a family, for what takes many seconds.
ONE_A_FAMILY = {"cnn", "coatnet_nano_cifar", "cspresnet_nano_cifar", "eca_resnet_20", "ghost_resnet_20", "nano_vit"}
ONE_A_FAMILY |= {"hornet_nano_cifar", "improved_resnet20_convnext", "lsknet_tiny_cifar", "mlp_mixer_tiny", "wrn_16_4"}
ONE_A_FAMILY |= {"resnest_nano_cifar", "resnext18_dropout", "segnext_mscan_tiny_cifar"}
OTHERS = set(NAMES) - ONE_A_FAMILY
LARGE = {name for name, _, count in COUNTS if count > 6e6}
# The same networks as another with one value changed, for the tests that take long.
TWINS = {"resnet_32", "resnet_44", "resnet_56", "resnet_110", "eca_resnet_32", "eca_resnet_56", "ghost_resnet_32"}
TWINS |= {"resnet20_no_eca", *cifarblocks.list_models("ecanet20_*"), *cifarblocks.list_models("eca_resnet20_pos*")}


def walk(names: list[str], slow: set[str] = LARGE) -> list[Any]:
    """The names, those that take long with the slow marker."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def build(name: str, **arguments: object) -> Classifier:
    """The classifier, for images of 32 pixels."""
    return cifarblocks.create_model(name, **({"image_size": 32} if name in PAPER_SIZE else {}) | arguments)


def give_branches_weight(model: Classifier, scale: float = 0.5) -> Classifier:
    """Set layer scales, whose first values make a branch too faint to see."""
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, scale)
    return model


def small(name: str, **arguments: object) -> Classifier:
    """The classifier, for images that leave its last map four places or more."""
    with torch.device("meta"):
        infos = build(name).feature_info
    size = max(8, 2 * infos[-1].stride) if infos else 8
    return give_branches_weight(build(name, image_size=size, **arguments), 0.1)  # at 0.5 the deepest MSCAN overflows


def images(model: Classifier, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images of the size that the network is made for."""
    return torch.randn(batch, model.in_channels, *model.image_size, dtype=dtype)


def regularised(name: str) -> dict[str, float]:
    """Arguments that make training random."""
    return {"dropout": 0.1} | ({} if name in NO_DROP_PATH else {"drop_path": 0.1})
