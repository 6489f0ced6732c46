from functools import partial

import timm.models.convnext
import torch
from references import assert_equal_modules, rename_with

from cifarblocks.blocks import GRN, ConvNeXtBlock

TIMM = {
    "conv_dw": "depthwise",
    "norm": "norm",
    "mlp.fc1": "expand",
    "mlp.fc2": "project",
    "mlp.grn.weight": "response_norm.scale",
    "mlp.grn.bias": "response_norm.shift",
    "gamma": "scale.gamma",
}


def test_version_1_equals_timm():
    theirs = timm.models.convnext.ConvNeXtBlock(12)
    assert_equal_modules(ConvNeXtBlock(12), theirs, torch.randn(2, 12, 7, 4), partial(rename_with, TIMM))


def test_version_2_equals_timm():
    theirs = timm.models.convnext.ConvNeXtBlock(12, use_grn=True, ls_init_value=None)
    ours = ConvNeXtBlock(12, layer_scale=None, response_norm=GRN)
    assert_equal_modules(ours, theirs, torch.randn(2, 12, 7, 4), partial(rename_with, TIMM))


def test_global_response_normalisation_is_its_formula():
    grn = GRN(5).double()
    torch.nn.init.normal_(grn.scale)
    torch.nn.init.normal_(grn.shift)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = torch.empty_like(x)
    for b in range(2):
        norms = [sum(value**2 for value in x[b, c].flatten().tolist()) ** 0.5 for c in range(5)]
        mean = sum(norms) / 5
        for c in range(5):
            factor = grn.scale[c].item() * norms[c] / (mean + 1e-6)
            expected[b, c] = x[b, c] + grn.shift[c].item() + factor * x[b, c]
    torch.testing.assert_close(grn(x), expected, rtol=1e-10, atol=1e-10)


def test_layer_scale_begins_at_its_initial_value():
    assert (ConvNeXtBlock(4, layer_scale=0.3).scale.gamma == torch.tensor(0.3)).all()
