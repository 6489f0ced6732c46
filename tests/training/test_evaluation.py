"""Scores against a count by hand."""

import math

import pytest
import torch
from torch import nn

from cifarblocks.training.evaluation import Scores, evaluate


class Answers(nn.Module):
    """Return the images as logits."""

    def forward(self, x):
        return x


def test_top1_and_top5_are_counted_over_all_batches():
    ranks = torch.tensor([0, 0, 1, 4, 5, 6, 2])  # how many classes stand before the true one
    labels = torch.arange(7)
    logits = torch.stack([torch.arange(7.0).roll(int(label)) for label in labels])  # the last is in place label - 1
    logits = torch.stack([row.roll(1 + int(rank)) for row, rank in zip(logits, ranks, strict=True)])
    for row, label, rank in zip(logits, labels, ranks, strict=True):
        assert (row > row[label]).sum() == rank
    model = Answers().train()
    scores = evaluate(model, [(logits[:4], labels[:4]), (logits[4:], labels[4:])])
    normaliser = math.log(sum(math.exp(number) for number in range(7)))
    loss = sum(normaliser - (6 - int(rank)) for rank in ranks) / 7
    assert scores == Scores(scores.loss, 100 * 2 / 7, 100 * 5 / 7, 7)
    assert math.isclose(scores.loss, loss)
    assert not model.training


@pytest.mark.parametrize(("classes", "top5"), [(2, None), (5, None), (6, 0.0)])
def test_below_six_classes_there_is_no_top5(classes, top5):
    logits = torch.arange(float(classes)).flip(0).expand(2, -1)  # the last class has the least
    labels = torch.full((2,), classes - 1)
    assert evaluate(Answers(), [(logits[:1], labels[:1]), (logits[1:], labels[1:])])[1:] == (0.0, top5, 2)
