import pytest
import torch
from references import assert_equal_modules
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


def rename(name: str) -> str:
    path, _, last = name.rpartition(".")
    return f"{NAMES[path]}.{last}"


def test_equals_timm():
    theirs = MixerBlock(12, 10, mlp_ratio=(0.5, 4.0))
    assert_equal_modules(MixerLayer(10, 12, 6, 48), theirs, torch.randn(2, 10, 12), rename)


def test_has_the_papers_number_of_parameters():
    assert sum(p.numel() for p in MixerLayer(64, 64, 32, 256).parameters()) == 37_536


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="tokens is 10 and fixed in this layer's parameters, got 9"):
        MixerLayer(10, 12, 6, 48)(torch.randn(2, 9, 12))
