from functools import partial

import pytest
import timm
import torch
from networks import assert_drawn, assert_equals_published, on_meta
from references import randomise, rename_with
from test_mbconv import COATNET as CONVOLUTION
from test_relative_attention import BLOCK, convert
from timm.models import maxxvit
from tools import slow
from torch import nn

import cifarblocks
import cifarblocks.models.coatnet
from cifarblocks.blocks import CBAM, ECA, LSKMBConv, MBConv, RelativeTransformerBlock, SqueezeExcite


def test_equals_timm():
    theirs = timm.create_model(
        "coatnet_0_224",
        img_size=(64, 96),
        num_classes=7,
        conv_stride_mode="1x1",
        conv_pool_type="max",
        transformer_pool_type="max",
    )
    ours, theirs, x = assert_equals_published("coatnet_0", theirs, "timm", (64, 96), image_size=(64, 96))
    with torch.no_grad():
        maps = theirs.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        for ours_map, theirs_map in zip(ours.feature_maps(x), maps, strict=True):
            torch.testing.assert_close(ours_map, theirs_map, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "kernel_size"),
    [("coatnet_cifar_opt", 3), slow("coatnet_cifar_opt_large_stem", 5)],
)
def test_coatnet_cifar_opt_is_composed_of_timms_blocks(name, kernel_size):
    convolution = maxxvit.MaxxVitConvCfg(stride_mode="1x1", pool_type="max", attn_layer="eca")
    transformer = maxxvit.MaxxVitTransformerCfg(dim_head=48, expand_ratio=2.0, pool_type="max")

    def attention(stride, size):
        position = partial(timm.layers.RelPosBias, window_size=(size, size))
        return maxxvit.TransformerBlock2d(192, 192, stride, rel_pos_cls=position, cfg=transformer)

    blocks = [
        maxxvit.MbConvBlock(c_in, c_out, stride, cfg=convolution)
        for c_in, c_out, stride in (
            (64, 64, 1),
            (64, 64, 1),
            (64, 96, 2),
            (96, 96, 1),
            (96, 192, 2),
            (192, 192, 1),
            (192, 192, 1),
        )
    ]
    blocks += [attention(1, 8) for _ in range(5)] + [attention(2, 4), attention(1, 4)]
    stem = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size, padding=kernel_size // 2, bias=False), nn.BatchNorm2d(64), nn.ReLU()
    )
    head = nn.Sequential(nn.LayerNorm(192, eps=1e-6), nn.Linear(192, 7))
    randomise(nn.ModuleList([stem, *blocks, head])).double().eval()
    ours = cifarblocks.create_model(name, num_classes=7).double().eval()
    own_blocks = [block for stage in ours.stages for block in stage]
    for own, block in zip(own_blocks, blocks, strict=True):
        names = BLOCK if isinstance(own, RelativeTransformerBlock) else CONVOLUTION | {"se": "gate"}
        size = block.attn.rel_pos.window_size if names is BLOCK else None
        own.load_state_dict(
            {rename_with(names, name): convert(name, tensor, size, 48) for name, tensor in block.state_dict().items()}
        )
    ours.stem.load_state_dict(stem.state_dict())
    ours.head.after.load_state_dict(head[0].state_dict())
    ours.head.classifier.load_state_dict(head[1].state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = stem(x)
        for block in blocks:
            expected = block(expected)
        expected = head(expected.mean((2, 3)))
        torch.testing.assert_close(ours(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "arguments", "convolution", "gate"),
    [
        ("coatnet_0", {}, MBConv, SqueezeExcite),
        ("coatnet_2", {"convolution": "lsk_mbconv"}, LSKMBConv, SqueezeExcite),
        ("coatnet_0_custom_enhanced", {}, LSKMBConv, SqueezeExcite),
        ("coatnet_0_cifar", {}, MBConv, SqueezeExcite),
        ("coatnet_nano_cifar", {}, MBConv, SqueezeExcite),
        ("coatnet_nano_cifar", {"attention": "cbam"}, MBConv, CBAM),
        ("coatnet_nano_cifar", {"attention": "none"}, MBConv, nn.Identity),
        ("coatnet_nano_cifar", {"convolution": "lsk_mbconv", "attention": "eca"}, LSKMBConv, ECA),
        ("coatnet_0_custom_enhanced", {"attention": "cbam"}, LSKMBConv, CBAM),
        ("coatnet_cifar_opt", {}, MBConv, ECA),
        ("coatnet_cifar_opt_large_stem", {"attention": "cbam"}, MBConv, CBAM),
    ],
)
def test_all_stages_but_the_last_two_convolve(name, arguments, convolution, gate):
    stages = on_meta(name, **arguments).stages
    for place, stage in enumerate(stages):
        kind = RelativeTransformerBlock if place >= len(stages) - 2 else convolution
        assert all(type(block) is kind for block in stage)
        if kind is convolution:
            assert all(type(block.gate) is gate for block in stage)


@pytest.mark.parametrize(
    ("name", "arguments", "tables", "heads"),
    [
        ("coatnet_1", {}, [(27, 27), (13, 13)], [12, 24]),
        ("coatnet_0", {"image_size": (65, 96)}, [(9, 11), (5, 5)], [12, 24]),
        ("coatnet_0_cifar", {}, [(15, 15), (7, 7)], [12, 24]),
        ("coatnet_nano_cifar", {"image_size": (19, 40)}, [(9, 19), (5, 9)], [6, 8]),
        ("coatnet_cifar_opt", {}, [(15, 15), (7, 7)], [4, 4]),
    ],
)
def test_relative_biases_are_made_for_the_maps_of_the_image_size(name, arguments, tables, heads):
    model = on_meta(name, **arguments)
    for stage, table, count in zip(model.stages[-2:], tables, heads, strict=True):
        for block in stage:
            assert block.attention.relative_bias.shape == (count, *table)
    maps = model.feature_maps(torch.randn(1, 3, *model.image_size, device="meta"))
    assert [(2 * h - 1, 2 * w - 1) for _, _, h, w in (feature_map.shape for feature_map in maps[-2:])] == tables


def test_weights_are_drawn_as_efficientnets_and_vits():
    model = cifarblocks.create_model("coatnet_0_cifar")
    conv, transformer = model.stages[1][1], model.stages[2][1]
    assert_drawn(torch.cat([block.depthwise[0].weight for block in model.stages[1]]), (2 / 9) ** 0.5)
    assert_drawn(conv.project.weight, (2 / 192) ** 0.5)
    assert transformer.mlp[0].weight.abs().max().item() == pytest.approx((6 / (384 + 1536)) ** 0.5, rel=0.01)
    assert not conv.project.bias.any()
    assert not transformer.attention.qkv.bias.any()
    biases = [block.attention.relative_bias.flatten() for stage in model.stages[2:] for block in stage]
    assert_drawn(torch.cat(biases), 0.02)


def test_dropouts_are_those_of_the_layouts():
    for name, rate in (("coatnet_0", 0.0), ("coatnet_cifar_opt", 0.1), ("coatnet_cifar_opt_large_stem", 0.1)):
        assert on_meta(name).head.dropout.p == rate
