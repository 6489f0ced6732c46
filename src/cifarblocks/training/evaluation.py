"""Scores of a model: mean loss, top-1 and top-5, exact for any number of processes."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarblocks.training.data.batches import Batch
from cifarblocks.training.distributed import ALONE, Processes


class Scores(NamedTuple):
    """Mean cross-entropy without label smoothing, accuracies in percent, and number of images.

    `top5` is None below 6 classes, where it has no meaning.
    """

    loss: float
    top1: float
    top5: float | None
    images: int

    def accuracies(self) -> str:
        """Return the accuracies, human-readable.

        >>> Scores(0.1, 98, 100, 8).accuracies(), Scores(0.1, 98, None, 8).accuracies()
        ('top-1 98.00 %, top-5 100.00 %', 'top-1 98.00 %')
        """
        return f"top-1 {self.top1:.2f} %" + ("" if self.top5 is None else f", top-5 {self.top5:.2f} %")


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    processes: Processes = ALONE,
    autocast: torch.autocast | None = None,
    outcomes: list[Tensor] | None = None,
) -> Scores:
    """Score a model on batches that together, over all processes, hold each image once.

    Args:
        model: (b, 3, h, w) → (b, classes); it is left in eval mode.
        batches: the batches of this process, on the model's device.
        processes: the processes that share the images; by default this one has all of them.
        autocast: the precision to compute in; by default the precision of model and batches.
        outcomes: list that gets, for each batch of this process, (b, 3): the predicted class, its probability and the
            true class's probability.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=processes.device)  # loss, top-1, top-5, images
    for images, labels in batches:
        with autocast or nullcontext():
            logits = model(images).double()
        hits = logits.topk(min(5, logits.shape[1])).indices == labels.unsqueeze(1)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        if outcomes is not None:
            probability, found = logits.softmax(1).max(1)
            true = logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
            outcomes.append(torch.stack([found.double(), probability, true], 1))
        top5 = hits.sum() if logits.shape[1] > 5 else torch.full_like(loss, torch.nan)
        counted = torch.stack([loss, hits[:, 0].sum(), top5, torch.full_like(loss, len(labels))])
        sums += counted.to(sums.device)
    loss_sum, hits1, hits5, seen = processes.sum(sums).tolist()
    return Scores(loss_sum / seen, 100 * hits1 / seen, None if math.isnan(hits5) else 100 * hits5 / seen, int(seen))


def all_outcomes(outcomes: list[Tensor], images: int, processes: Processes) -> Tensor:
    """Gather the outcomes of all images, (images, 3), in the order of the images, from all processes."""
    table = torch.zeros(images, 3, dtype=torch.float64, device=processes.device)
    if outcomes:
        table[processes.rank :: processes.world_size] = torch.cat(outcomes)
    return processes.sum(table).cpu()
