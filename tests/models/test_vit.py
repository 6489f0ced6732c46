import re

import pytest
import timm
import torch
from networks import assert_drawn, assert_equals_published, on_meta
from references import randomise
from torch import nn
from torchvision.models import VisionTransformer

import cifarblocks
from cifarblocks.blocks import TransformerBlock
from cifarblocks.models.vit import PatchArguments, TokenMap, layer_norm, vit

# torch.nn's names in the network below → ours
TORCH_RENAMES = [
    (r"^token$", "stem.3.token"),
    (r"^positions$", "stem.4.positions"),
    (r"^patches\.", "stem.1."),
    (r"^linear\.", "head.classifier."),
    (r"^norm\.", "head.norm."),
    (r"^layers\.", "stages.0."),
    (r"\.self_attn\.in_proj_", ".attention.qkv."),
    (r"\.self_attn\.out_proj\.", ".attention.project."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.linear1\.", ".mlp.0."),
    (r"\.linear2\.", ".mlp.3."),
    (r"\.norm2\.", ".mlp_norm."),
]


def load(ours: nn.Module, theirs: nn.Module, renames: list[tuple[str, str]]) -> None:
    """Copy the weights by their names; class token and positions have an axis for the batch in other libraries."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        if name.endswith((".token", ".positions")):
            tensor = tensor.reshape(ours.state_dict()[name].shape)
        state[name] = tensor
    ours.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "patch_size", "image_size"), [("vit_tiny_16", 16, (32, 48)), ("vit_tiny_cifar", 4, (16, 12))]
)
def test_equals_timm(name, patch_size, image_size):
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=image_size, patch_size=patch_size, num_classes=7)
    ours, theirs, x = assert_equals_published(name, theirs, "timm", image_size, image_size=image_size)
    (theirs_map,) = theirs.forward_intermediates(x, indices=1, norm=False, intermediates_only=True)
    (ours_map,) = ours.feature_maps(x)
    torch.testing.assert_close(ours_map, theirs_map, rtol=1e-8, atol=1e-8)


def test_equals_torchvision():
    theirs = VisionTransformer(
        image_size=48, patch_size=16, num_layers=3, num_heads=2, hidden_dim=128, mlp_dim=512, num_classes=7
    )
    theirs = randomise(theirs).double().eval()
    given = PatchArguments(num_classes=7, image_size=48)
    ours = vit(given, TransformerBlock, layer_norm, patch_size=16, width=128, depth=3).double().eval()
    cifarblocks.load_published(ours, theirs.state_dict(), "torchvision")
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


class TorchNanoViT(nn.Module):
    """The layout in torch's own layers."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 192))
        self.positions = nn.Parameter(torch.zeros(1, 1 + tokens, 192))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(192, 8, 384, batch_first=True) for _ in range(4))
        self.norm = nn.LayerNorm(192)
        self.linear = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.repeat(len(x), 1, 1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.norm(x)[:, 0])


def test_nano_vit_is_made_of_torchs_encoder_layers():
    theirs = randomise(TorchNanoViT(6 * 4)).double().eval()
    ours = cifarblocks.create_model("nano_vit", num_classes=10, image_size=(12, 8)).double().eval()
    load(ours, theirs, TORCH_RENAMES)
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "depth", "heads", "map_size"),
    [
        ("vit_tiny_16", 12, 3, 14),
        ("vit_b_16", 12, 12, 14),
        ("vit_tiny_cifar", 12, 3, 8),
        ("vit_nano_cifar", 6, 3, 8),
        ("nano_vit", 4, 8, 16),
    ],
)
def test_depths_heads_and_maps(name, depth, heads, map_size):
    model = on_meta(name)
    (blocks,) = model.stages
    assert [block.attention.heads for block in blocks] == [heads] * depth
    x = torch.randn(1, 3, *model.image_size, device="meta")
    (feature_map,) = model.feature_maps(x)
    assert feature_map.shape == (1, model.num_features, map_size, map_size)
    assert model.forward_features(x).shape == (1, 1 + map_size**2, model.num_features)


def test_the_map_has_no_class_token_and_its_rows_in_order():
    tokens = torch.arange(7).view(1, 7, 1)
    assert TokenMap(2, 3)(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert TokenMap(2, 3)(tokens[:, 1:]).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_dropout_falls_on_the_positions_and_the_blocks():
    def rates(**arguments):
        modules = on_meta("nano_vit", **arguments).named_modules()
        return {name: module.p for name, module in modules if isinstance(module, nn.Dropout)}

    blocks = [f"stages.0.{i}.{part}" for i in range(4) for part in ("attention.dropout", "mlp.2", "mlp.4")]
    assert rates() == dict.fromkeys(["stem.5", *blocks], 0.1)
    assert set(rates(dropout=0.3).values()) == {0.3}


def test_weights_are_drawn_as_deits():
    model = cifarblocks.create_model("vit_tiny_cifar")
    block = model.stages[0][0]
    for weight in (block.attention.qkv.weight, block.mlp[0].weight, model.head.classifier.weight):
        assert_drawn(weight, 0.02)
    assert_drawn(model.stem[4].positions, 0.02)
    assert not block.mlp[0].bias.any()
    assert not model.stem[3].token.any()
