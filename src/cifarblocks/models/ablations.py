"""Ablations of ECA-Net, Wang et al. 2020, https://arxiv.org/abs/1910.03151: `eca_resnet_20` with one argument fixed."""

from cifarblocks.models.arguments import registered_with
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.resnet import KernelArguments, PositionArguments, ResNetArguments, eca_resnet_20, resnet_20

__all__ = [
    "eca_resnet20_pos1", "eca_resnet20_pos2", "eca_resnet20_pos3", "ecanet20_adaptive", "ecanet20_fixed_k3",
    "ecanet20_fixed_k5", "ecanet20_fixed_k7", "ecanet20_fixed_k9", "resnet20_no_eca",
]  # fmt: skip


@registered_with(ResNetArguments)
def resnet20_no_eca(given: ResNetArguments) -> Classifier:
    """The kernel ablation's baseline: `resnet_20`."""
    return resnet_20(**vars(given))


@registered_with(PositionArguments)
def ecanet20_fixed_k3(given: PositionArguments) -> Classifier:
    """The kernel ablation: `eca_resnet_20` with kernel 3."""
    return eca_resnet_20(kernel_size=3, **vars(given))


@registered_with(PositionArguments)
def ecanet20_fixed_k5(given: PositionArguments) -> Classifier:
    """The kernel ablation: `eca_resnet_20` with kernel 5."""
    return eca_resnet_20(kernel_size=5, **vars(given))


@registered_with(PositionArguments)
def ecanet20_fixed_k7(given: PositionArguments) -> Classifier:
    """The kernel ablation: `eca_resnet_20` with kernel 7."""
    return eca_resnet_20(kernel_size=7, **vars(given))


@registered_with(PositionArguments)
def ecanet20_fixed_k9(given: PositionArguments) -> Classifier:
    """The kernel ablation: `eca_resnet_20` with kernel 9."""
    return eca_resnet_20(kernel_size=9, **vars(given))


@registered_with(PositionArguments)
def ecanet20_adaptive(given: PositionArguments) -> Classifier:
    """The kernel ablation: `eca_resnet_20` with the adaptive kernel, which is 3 at widths 16, 32 and 64."""
    return eca_resnet_20(kernel_size=None, **vars(given))


@registered_with(KernelArguments)
def eca_resnet20_pos1(given: KernelArguments) -> Classifier:
    """The position ablation: ECA after the first BatchNorm of every block, before its ReLU."""
    return eca_resnet_20(position=1, **vars(given))


@registered_with(KernelArguments)
def eca_resnet20_pos2(given: KernelArguments) -> Classifier:
    """The position ablation: ECA after the second BatchNorm, as in `eca_resnet_20`."""
    return eca_resnet_20(position=2, **vars(given))


@registered_with(KernelArguments)
def eca_resnet20_pos3(given: KernelArguments) -> Classifier:
    """The position ablation: ECA after the addition, before the last ReLU."""
    return eca_resnet_20(position=3, **vars(given))
