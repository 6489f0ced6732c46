"""Ablations of ECA-Net, Wang et al. 2020, https://arxiv.org/abs/1910.03151: `eca_resnet_20` with one argument fixed."""

from collections.abc import Callable
from dataclasses import field, make_dataclass
from typing import Any

from cifarblocks.models.arguments import registered_with
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.resnet import ECAArguments, ResNetArguments, eca_resnet_20, resnet_20


@registered_with(ResNetArguments)
def resnet20_no_eca(given: ResNetArguments) -> Classifier:
    """The kernel ablation's baseline: `resnet_20`."""
    return resnet_20(**vars(given))


def ablation(name: str, about: str, **fixed: Any) -> Callable[..., Classifier]:
    """Register `eca_resnet_20` with some arguments fixed, which the new function does not take."""
    untaken = [(argument, Any, field(init=False)) for argument in fixed]
    arguments = make_dataclass("Remaining", untaken, bases=(ECAArguments,), frozen=True, kw_only=True)

    def build(given: ECAArguments) -> Classifier:
        return eca_resnet_20(**vars(given), **fixed)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{about}."
    return registered_with(arguments)(build)


KERNEL, POSITION = "The kernel ablation: `eca_resnet_20` with", "The position ablation: ECA after"
ecanet20_fixed_k3 = ablation("ecanet20_fixed_k3", f"{KERNEL} kernel 3", kernel_size=3)
ecanet20_fixed_k5 = ablation("ecanet20_fixed_k5", f"{KERNEL} kernel 5", kernel_size=5)
ecanet20_fixed_k7 = ablation("ecanet20_fixed_k7", f"{KERNEL} kernel 7", kernel_size=7)
ecanet20_fixed_k9 = ablation("ecanet20_fixed_k9", f"{KERNEL} kernel 9", kernel_size=9)
ADAPTIVE = f"{KERNEL} the adaptive kernel, which is 3 at widths 16, 32 and 64"
ecanet20_adaptive = ablation("ecanet20_adaptive", ADAPTIVE, kernel_size=None)
BEFORE_RELU = f"{POSITION} the first BatchNorm of every block, before its ReLU"
eca_resnet20_pos1 = ablation("eca_resnet20_pos1", BEFORE_RELU, position=1)
eca_resnet20_pos2 = ablation("eca_resnet20_pos2", f"{POSITION} the second BatchNorm, as in `eca_resnet_20`", position=2)
eca_resnet20_pos3 = ablation("eca_resnet20_pos3", f"{POSITION} the addition, before the last ReLU", position=3)
