"""RandAugment and TrivialAugment, drawn for each image from its own random number.

https://arxiv.org/abs/1909.13719 and https://arxiv.org/abs/2103.10158, as torchvision has them.
"""

import argparse
import re
from collections.abc import Callable

import torch
from torch import Tensor

Policy = Callable[[Tensor], Tensor]  # (3, h, w) uint8 → (3, h, w) uint8, random by torch's global generator


def policy_name(text: str) -> str:
    """Read none, trivial or rand-N-M.

    >>> policy_name("rand-2-15")
    'rand-2-15'
    """
    if text in ("none", "trivial") or re.fullmatch(r"rand-[1-9]\d?-([12]?\d|30)", text):
        return text
    raise argparse.ArgumentTypeError(
        f"must be none, trivial or rand-N-M with N from 1 and M from 0 to 30, got {text!r}"
    )


def build_policy(name: str) -> Policy | None:
    """Build the augmentation of that name; None for none."""
    if name == "none":
        return None
    from torchvision.transforms import v2

    if name == "trivial":
        return v2.TrivialAugmentWide()
    _, operations, magnitude = name.split("-")
    return v2.RandAugment(num_ops=int(operations), magnitude=int(magnitude))


def augment_each(pixels: Tensor, policy: Policy, seeds: Tensor) -> Tensor:
    """Augment each image by its seed, and restore torch's global generator.

    Args:
        pixels: (b, h, w, 3) uint8.
        policy: augmentation of one image.
        seeds: (b,) int64, on the CPU.
    """
    generator = torch.default_generator
    kept = generator.get_state()
    augmented = []
    for image, seed in zip(pixels.permute(0, 3, 1, 2).contiguous(), seeds.tolist(), strict=True):
        generator.manual_seed(seed)
        augmented.append(policy(image))
    generator.set_state(kept)
    return torch.stack(augmented).permute(0, 2, 3, 1)
