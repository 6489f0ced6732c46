import pytest
import torch

from cifarblocks.blocks import GRN, DropPath, LayerScale, RelativeAttention


def test_drops_whole_images_and_keeps_the_expectation():
    x = torch.ones(20_000, 2, 3, 1)
    y = DropPath(0.25)(x).flatten(1)
    assert set(y.unique().tolist()) == {0, torch.tensor(1 / 0.75).item()}
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).float().mean() - 0.25) < 0.02


@pytest.mark.parametrize("module", [DropPath(0.5).eval(), DropPath(0.0)])
def test_is_absent_in_eval_mode_and_at_rate_0(module):
    x = torch.randn(4, 3, 2, 2)
    assert module(x) is x


def test_what_a_block_was_built_with_is_in_its_repr():
    assert repr(LayerScale(8, 0.5)) == "LayerScale(8, initial_value=0.5)"
    assert repr(GRN(8, eps=1e-3)) == "GRN(8, eps=0.001)"
    assert "heads=2, size=(4, 5)" in repr(RelativeAttention(8, (4, 5), head_channels=4))
