import pytest
import torch
from references import assert_equal_modules, rename_with
from timm.layers import GlobalContext as Reference
from torch import nn

from cifarblocks.blocks import GlobalContext

NAMES = {"conv_attn": "select", "mlp_add.fc1": "reduce", "mlp_add.norm": "norm", "mlp_add.fc2": "expand"}


@pytest.mark.parametrize(("channels", "hidden"), [(6, 5), (12, 2), (32, 8)])
def test_equals_timm_without_the_bias_that_the_softmax_takes_away(channels, hidden):
    reference = Reference(channels, rd_channels=hidden, fuse_add=True, fuse_scale=False).double().eval()
    reference.mlp_add.norm.eps = 1e-5  # the authors' code
    nn.init.normal_(reference.mlp_add.fc2.weight)
    x = torch.randn(3, channels, 7, 4, dtype=torch.float64)
    with_bias = reference(x)
    nn.init.zeros_(reference.conv_attn.bias)
    torch.testing.assert_close(reference(x), with_bias, rtol=1e-12, atol=1e-12)
    reference.conv_attn.register_parameter("bias", None)
    block = GlobalContext(channels, hidden)
    assert_equal_modules(block, reference, x, lambda name: rename_with(NAMES, name))


@pytest.mark.parametrize(("channels", "hidden"), [(16, 8), (128, 8), (256, 16)])
def test_the_default_width_is_a_sixteenth_and_at_least_eight(channels, hidden):
    assert GlobalContext(channels).reduce.out_channels == hidden
