"""The classifiers under test: the slow ones, the limits of some, and functions that build them."""

import re
from collections.abc import Collection
from typing import Any

import pytest
import torch
from references import randomise_by_fan_in
from tools import slow
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
# One of each kind, the smallest, for the quick suite: the others differ from it by width, depth or one value.
ONE_A_KIND = {"cnn", "coatnet_nano_cifar", "convnext_atto_cifar", "cspresnet_nano_cifar", "eca_resnet_20", "mlp"}
ONE_A_KIND |= {"ghost_resnet_20", "hornet_nano_cifar", "improved_resnet20_convnext", "lsknet_tiny_cifar", "nano_vit"}
ONE_A_KIND |= {"mlp_mixer_tiny", "patch_lstm", "resnest_nano_cifar", "resnext18_dropout", "segnext_mscan_tiny_cifar"}
ONE_A_KIND |= {"vit_nano_cifar", "wrn_16_4"}


def walk(without: Collection[str] = (), quick: Collection[str] = ONE_A_KIND) -> list[Any]:
    """Return all names but some; those that the quick suite leaves out have the slow marker."""
    chosen = [name for name in NAMES if name not in without]
    return [name if name in quick else slow(name) for name in chosen]


def on_meta(name: str, **arguments: object) -> Classifier:
    """The classifier without memory for its weights."""
    return cifarblocks.create_model(name, **arguments, device="meta")


def build(name: str, **arguments: object) -> Classifier:
    """The classifier, for images of 32 pixels."""
    return cifarblocks.create_model(name, **({"image_size": 32} if name in PAPER_SIZE else {}) | arguments)


def give_branches_weight(model: Classifier, scale: float = 0.5) -> Classifier:
    """Set layer scales to larger values, because their initial ones hide the branches."""
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, scale)
    return model


def kind(block: nn.Module) -> tuple[object, ...]:
    """Return what a block has in common with one that differs by its values alone."""
    return re.sub(r"DropPath\(.*?\)", "", str(block)), *(parameter.shape for parameter in block.parameters())


def without_repetitions(model: nn.Module) -> nn.Module:
    """Remove each block that is followed by one of the same kind, to test every kind of part at less cost."""
    for stage in model.stages:
        for blocks in (stage, *(part.blocks for part in stage if hasattr(part, "blocks"))):
            for place in range(len(blocks) - 2, -1, -1):
                if kind(blocks[place]) == kind(blocks[place + 1]):
                    del blocks[place]
    return model


def small(name: str, **arguments: object) -> Classifier:
    """The classifier without repeated blocks, for images that leave its last map four places or more."""
    infos = build(name, device="meta").feature_info
    size = max(8, 2 * infos[-1].stride) if infos else 8
    model = without_repetitions(build(name, image_size=size, **arguments))
    return give_branches_weight(model, 0.1)  # at 0.5 the deepest MSCAN overflows


def images(model: Classifier, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images of the size that the network is made for."""
    return torch.randn(batch, model.in_channels, *model.image_size, dtype=dtype)


def regularised(name: str) -> dict[str, float]:
    """Arguments that make training random."""
    return {"dropout": 0.1} | ({} if name in NO_DROP_PATH else {"drop_path": 0.1})


@torch.no_grad()
def assert_equals_published(
    name: str, theirs: nn.Module, source: str, size: tuple[int, int], **arguments: object
) -> tuple[Classifier, nn.Module, Tensor]:
    """Check that the network computes the same as `theirs` with its weights; return both and the images."""
    theirs = randomise_by_fan_in(theirs.double()).eval()
    ours = cifarblocks.create_model(name, num_classes=7, **arguments).double().eval()
    cifarblocks.load_published(ours, theirs.state_dict(), source)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)
    return ours, theirs, x


def assert_drawn(weight: Tensor, std: float) -> None:
    """Check a standard deviation to 5 %, of enough weights to measure it."""
    assert weight.numel() >= 4000
    assert weight.std().item() == pytest.approx(std, rel=0.05)
