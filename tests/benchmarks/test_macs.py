import macs
import pytest
import torch
import torch.nn.functional as F
from properties import GENERIC
from torch import nn

import cifarblocks
from cifarblocks import blocks


class Function(nn.Module):
    """A module of a function alone."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def count(module, x):
    return macs.exact(module, x).total()


@pytest.mark.parametrize("name", blocks.__all__)
def test_fvcore_and_count_macs_agree_on_every_block(name):
    case = GENERIC[name]
    module, x = case.build(), case.input(2, 8, 10)
    assert count(module, x) == cifarblocks.count_macs(module, x.shape)


@pytest.mark.parametrize("name", ["cnn", "eca_resnet_20", "mlp", "resnet_18"])
def test_fvcore_and_count_macs_agree_on_models(name):
    model = cifarblocks.create_model(name)
    assert count(model, torch.randn(1, 3, 32, 32)) == cifarblocks.count_macs(model)


def test_fused_attention_is_counted():
    module = Function(lambda x: F.scaled_dot_product_attention(x, x[..., :6, :], x[..., :6, :3]))
    assert count(module, torch.randn(2, 4, 10, 5)) == 2 * 4 * 10 * 6 * (5 + 3)


def test_einsum_is_exact():
    keys = torch.randn(2, 3, 64, 7)
    module = Function(lambda x: torch.einsum("bhid,bhjd->bhij", x, keys))
    assert count(module, torch.randn(2, 3, 50, 7)) == 2 * 3 * 50 * 64 * 7
    chain = Function(lambda x: torch.einsum("ab,bc,cd->ad", x, torch.ones(5, 6), torch.ones(6, 7)))
    assert count(chain, torch.randn(4, 5)) == 4 * 5 * 6 + 4 * 6 * 7


@pytest.mark.parametrize("directions", [1, 2])
def test_lstms_are_counted(directions):
    lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True, bidirectional=directions == 2)
    gates = 4 * 7
    expected = 3 * 10 * directions * (gates * (5 + 7) + gates * (7 * directions + 7))
    assert count(lstm, torch.randn(3, 10, 5)) == expected
    assert cifarblocks.count_macs(lstm, (3, 10, 5)) == expected


def test_the_table_of_a_model_is_printed_and_an_unknown_one_refused(capsys, refused):
    assert macs.main(["mlp"]) == 0
    assert "One multiply-add counts 1." in capsys.readouterr().out
    refused(macs.main, ["mpl"], "macs.py: error", "mpl", "mlp")
