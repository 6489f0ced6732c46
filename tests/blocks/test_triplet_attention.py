from functools import partial

import pytest
import torch
from references import assert_equals_formula, batch_norm, convolution, randomise
from torch import Tensor

from cifarblocks.blocks import TripletAttention


def triplet(x: Tensor, module, training: bool) -> Tensor:
    """Turn the whole input for each branch, as the paper does, gate it there, and turn it back."""
    branches = {"bhcw": module.channel_column, "bwhc": module.channel_row, "bchw": module.row_column}
    y = torch.zeros(())
    for axes, (conv, norm, _) in branches.items():
        turned = torch.einsum(f"bchw->{axes}", x)
        largest = turned.sort(1).values[:, -1]
        mean = sum(turned.unbind(1)) / turned.shape[1]
        logits = batch_norm(convolution(torch.stack([largest, mean], 1), conv), norm, training)
        y = y + torch.einsum(f"{axes}->bchw", turned / (1 + torch.exp(-logits)))
    return y / 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel_size", [7, 3])
def test_is_its_formula(training, kernel_size):
    module = randomise(TripletAttention(6, kernel_size)).double().train(training)
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    assert_equals_formula(module, partial(triplet, module=module, training=training), x)
