"""Mixup and CutMix: each image mixed with another of its batch, https://arxiv.org/abs/1710.09412 and 1905.04899.

The draws depend only on (seed, epoch, step) and on the global batch, so any number of processes mixes the same images.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cifarblocks.training.data.seeds import random_stream

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix of a run.

    Attributes:
        mixup: alpha of mixup's Beta distribution; 0 for no mixup.
        cutmix: alpha of CutMix's; 0 for no CutMix. Of both, one is drawn for each batch.
        probability: share of the batches that are mixed.
        classes: number of classes.
    """

    mixup: float
    cutmix: float
    probability: float
    classes: int


@dataclass(frozen=True)
class Mix:
    """Mixup or CutMix of one batch.

    Attributes:
        partners: (b,) which image of the global batch each one is mixed with.
        share: share of each image that stays, from 0 to 1.
        box: top, bottom, left, right of the part cut from the partner; None to blend the images.
        classes: number of classes.
    """

    partners: Tensor
    share: float
    box: tuple[int, int, int, int] | None
    classes: int

    def __call__(self, own: Batch, partner: Batch) -> Batch:
        """Mix images (b, 3, h, w) and labels (b,): images, and a probability for each class (b, classes)."""
        images, others = own[0], partner[0]
        if self.box is None:
            mixed = images * self.share + others * (1 - self.share)
        else:
            top, bottom, left, right = self.box
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        targets = [F.one_hot(labels, self.classes).to(images.dtype) for labels in (own[1], partner[1])]
        return mixed, targets[0] * self.share + targets[1] * (1 - self.share)


def draw_mix(mixing: Mixing, batch_size: int, h: int, w: int, key: tuple[int, int, int]) -> Mix | None:
    """Draw the mix of the global batch of that (seed, epoch, step); None for a batch that is not mixed."""
    draw = random.Random(random_stream("mixing", *key).initial_seed())
    if draw.random() >= mixing.probability:
        return None
    partners = torch.randperm(batch_size, generator=random_stream("partners", *key))
    cut = bool(mixing.cutmix) and not (mixing.mixup and draw.random() < 0.5)
    alpha = mixing.cutmix if cut else mixing.mixup
    share = draw.betavariate(alpha, alpha)
    if not cut:
        return Mix(partners, share, None, mixing.classes)
    box = cut_box(share, draw.random(), draw.random(), h, w)
    area = (box[1] - box[0]) * (box[3] - box[2])
    return Mix(partners, 1 - area / (h * w), box, mixing.classes)


def cut_box(share: float, down: float, right: float, h: int, w: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a box in the image's aspect ratio, of area 1 - share before clipping.

    >>> cut_box(0.75, 0.5, 0.0, 32, 32)
    (8, 24, 0, 8)
    """
    half = 0.5 * (1 - share) ** 0.5
    y, x = int(down * h), int(right * w)
    tall, wide = int(half * h), int(half * w)
    return max(y - tall, 0), min(y + tall, h), max(x - wide, 0), min(x + wide, w)
