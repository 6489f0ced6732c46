from functools import partial

import torch
from references import assert_equal_modules, rename_with
from timm.models.mlp_mixer import MixerBlock

from cifarblocks.blocks import MixerLayer

NAMES = {
    "norm1": "token_norm",
    "mlp_tokens.fc1": "token_mlp.0",
    "mlp_tokens.fc2": "token_mlp.3",
    "norm2": "channel_norm",
    "mlp_channels.fc1": "channel_mlp.0",
    "mlp_channels.fc2": "channel_mlp.3",
}


def test_equals_timm():
    theirs = MixerBlock(12, 10, mlp_ratio=(0.5, 4.0))
    assert_equal_modules(MixerLayer(10, 12, 6, 48), theirs, torch.randn(2, 10, 12), partial(rename_with, NAMES))
