"""Compare time and peak memory of every accelerated block with those of its reference in timm or torchvision.

    python benchmarks/blocks.py              # all pairs: about 30 minutes on 2 CPU cores, nothing else running
    python benchmarks/blocks.py ECA GnConv   # only these; the others stay as measured

Three modules alternate in one process: ours, the reference, and a second instance of the reference. A cell of the table
is the median over the turns of our time divided by the reference's. The bar is the noise: the third quartile of the
slower of the two instances divided by the faster. A block above the bar is built and measured again in more turns, and
the second measurement counts. Blocks without an installed reference are compared with benchmarks/arrangements.py.
Writes benchmarks/results/blocks.PROCESSOR.json after each pair, and the table beside it.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import arrangements
import timm.layers
import torch
from measuring import described, in_turns, peak_memory, processor, renew, seconds, typed
from timm.layers.grn import GlobalResponseNorm
from timm.models import convnext, cspnet, ghostnet, maxxvit, mlp_mixer, resnest, vision_transformer
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.ops import SqueezeExcitation

import cifarblocks
from cifarblocks import blocks
from cifarblocks.blocks.basic import LayerScale, depthwise_conv
from cifarblocks.training.hardware import keep_freed_memory

BATCH, TURN_SECONDS = 32, 0.03
TURNS = (15, 45)  # the second number after a ratio above the bar
SHAPES = ((64, 32), (256, 8))  # channels, height and width
MORE_SHAPES = {"convolution, 3×3": ((512, 4),)}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOKENS = frozenset({"MixerLayer", "PostNormBlock", "SelfAttention", "TransformerBlock"})

Build = Callable[[int, int], nn.Module]  # channels, height and width


def relative(kind: Callable[..., nn.Module]) -> Build:
    """Build timm's attention over maps with its table of relative positions."""
    return lambda c, s: kind(c, c, rel_pos_cls=partial(timm.layers.RelPosBias, window_size=(s, s)))


csp = partial(cspnet.CrossStage, dilation=1, act_layer=partial(nn.LeakyReLU, 0.1), norm_layer=nn.BatchNorm2d)
csp_resnet = partial(csp, bottle_ratio=0.5, expand_ratio=2.0, cross_linear=True, block_fn=cspnet.BottleneckBlock)
csp_block = partial(cspnet.BottleneckBlock, act_layer=partial(nn.LeakyReLU, 0.1), norm_layer=nn.BatchNorm2d)
dark_block = partial(cspnet.DarkBlock, act_layer=partial(nn.LeakyReLU, 0.1), norm_layer=nn.BatchNorm2d)
norm = nn.BatchNorm2d

PAIRS: dict[str, tuple[Build, Build]] = {
    "ECA": (lambda c, _: blocks.ECA(c), lambda c, _: timm.layers.EcaModule(c)),
    "SqueezeExcite": (lambda c, _: blocks.SqueezeExcite(c, c // 16), lambda c, _: SqueezeExcitation(c, c // 16)),
    "BatchNorm2d": (lambda c, _: nn.BatchNorm2d(c), lambda c, _: nn.BatchNorm2d(c)),
    "BatchNorm2d, ReLU": (
        lambda c, _: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()),
        lambda c, _: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()),
    ),
    "LayerScale": (lambda c, _: LayerScale(c, 1e-2), lambda c, _: timm.layers.LayerScale2d(c, 1e-2)),
    "LayerNorm2d": (lambda c, _: blocks.LayerNorm2d(c), lambda c, _: timm.layers.LayerNorm2d(c)),
    "convolution, 3×3": (
        lambda c, _: nn.Conv2d(c, c, 3, padding=1, bias=False),
        lambda c, _: nn.Conv2d(c, c, 3, padding=1, bias=False),
    ),
    "depthwise convolution, 7×7": (
        lambda c, _: depthwise_conv(c, 7),
        lambda c, _: nn.Conv2d(c, c, 7, padding=3, groups=c),
    ),
    "depthwise convolution, 7×7, dilation 3": (
        lambda c, _: depthwise_conv(c, 7, dilation=3),
        lambda c, _: nn.Conv2d(c, c, 7, padding=9, dilation=3, groups=c),
    ),
    "depthwise convolution, 3×3": (
        lambda c, _: depthwise_conv(c, 3),
        lambda c, _: nn.Conv2d(c, c, 3, padding=1, groups=c),
    ),
    "depthwise convolution, 3×3, stride 2": (
        lambda c, _: depthwise_conv(c, 3, 2),
        lambda c, _: nn.Conv2d(c, c, 3, 2, padding=1, groups=c),
    ),
    "BasicBlock": (lambda c, _: blocks.BasicBlock(c, c), lambda c, _: resnet.BasicBlock(c, c)),
    "Bottleneck": (lambda c, _: blocks.Bottleneck(c, c // 4), lambda c, _: resnet.Bottleneck(c, c // 4)),
    "Bottleneck, 8 groups": (
        lambda c, _: blocks.Bottleneck(c, c // 4, groups=8, base_width=16),
        lambda c, _: resnet.Bottleneck(c, c // 4, groups=8, base_width=16),
    ),
    "PreActBlock": (lambda c, _: blocks.PreActBlock(c, c), lambda c, _: arrangements.PreActBlock(c)),
    "GhostModule": (lambda c, _: blocks.GhostModule(c, c), lambda c, _: ghostnet.GhostModule(c, c)),
    "GhostBottleneck": (
        lambda c, _: blocks.GhostBottleneck(c, 2 * c, c, se_ratio=0.25),
        lambda c, _: ghostnet.GhostBottleneck(c, 2 * c, c, se_ratio=0.25),
    ),
    "SplitAttention": (lambda c, _: blocks.SplitAttention(c), lambda c, _: timm.layers.SplitAttn(c, norm_layer=norm)),
    "ResNeStBottleneck": (
        lambda c, _: blocks.ResNeStBottleneck(c, c // 4),
        lambda c, _: resnest.ResNestBottleneck(c, c // 4, radix=2, avd=True, norm_layer=norm),
    ),
    "MSCA": (lambda c, _: blocks.MSCA(c), lambda c, _: arrangements.MSCA(c)),
    "MSCAUnit": (lambda c, _: blocks.MSCAUnit(c), lambda c, _: arrangements.Unit(c, arrangements.MSCA(c))),
    "MSCABlock": (lambda c, _: blocks.MSCABlock(c, 4), lambda c, _: arrangements.UnitBlock(c, arrangements.MSCA(c), 4)),
    "LSKAttention": (lambda c, _: blocks.LSKAttention(c), lambda c, _: arrangements.LSK(c)),
    "LSKUnit": (lambda c, _: blocks.LSKUnit(c), lambda c, _: arrangements.Unit(c, arrangements.LSK(c))),
    "LSKBlock": (lambda c, _: blocks.LSKBlock(c, 4), lambda c, _: arrangements.UnitBlock(c, arrangements.LSK(c), 4)),
    "InvertedResidual": (
        lambda c, _: blocks.InvertedResidual(c, c),
        lambda c, _: MBConv(MBConvConfig(4, 3, 1, c, c, 1), 0.0, norm),
    ),
    "MBConv": (
        lambda c, _: blocks.MBConv(c, c),
        lambda c, _: maxxvit.MbConvBlock(c, c, 1, cfg=maxxvit.MaxxVitConvCfg()),
    ),
    "LSKMBConv": (lambda c, _: blocks.LSKMBConv(c, c), lambda c, _: arrangements.LSKMBConv(c)),
    "RelativeAttention": (lambda c, s: blocks.RelativeAttention(c, s), relative(maxxvit.Attention2d)),
    "RelativeTransformerBlock": (
        lambda c, s: blocks.RelativeTransformerBlock(c, c, s),
        relative(partial(maxxvit.TransformerBlock2d, cfg=maxxvit.MaxxVitTransformerCfg())),
    ),
    "GnConv": (lambda c, _: blocks.GnConv(c, 3), lambda c, _: arrangements.GnConv(c, 3)),
    "GnConv, global filter": (
        lambda c, s: blocks.GnConv(c, 3, filter=partial(blocks.GlobalLocalFilter, size=s)),
        lambda c, s: arrangements.GnConv(c, 3, (s, s)),
    ),
    "GlobalLocalFilter": (
        lambda c, s: blocks.GlobalLocalFilter(c, s),
        lambda c, s: arrangements.GlobalFilter(c, (s, s)),
    ),
    "HorNetBlock": (lambda c, _: blocks.HorNetBlock(c, 3), lambda c, _: arrangements.HorNetBlock(c, 3)),
    "ConvNeXtBlock": (lambda c, _: blocks.ConvNeXtBlock(c), lambda c, _: convnext.ConvNeXtBlock(c)),
    "ConvNeXtBlock, V2": (
        lambda c, _: blocks.ConvNeXtBlock(c, layer_scale=None, response_norm=blocks.GRN),
        lambda c, _: convnext.ConvNeXtBlock(c, use_grn=True, ls_init_value=None),
    ),
    "GRN": (lambda c, _: blocks.GRN(c), lambda c, _: GlobalResponseNorm(c, channels_last=False)),
    "CSPStage": (lambda c, _: blocks.CSPStage(c, c, 2), lambda c, _: csp_resnet(c, c, stride=1, depth=2)),
    "CSPBottleneck": (lambda c, _: blocks.CSPBottleneck(c), lambda c, _: csp_block(c, c, bottle_ratio=0.5)),
    "DarknetBlock": (lambda c, _: blocks.DarknetBlock(c), lambda c, _: dark_block(c, c, bottle_ratio=1.0)),
    "MixerLayer": (
        lambda c, s: blocks.MixerLayer(s * s, c, c // 2, 4 * c),
        lambda c, s: mlp_mixer.MixerBlock(c, s * s),
    ),
    "SelfAttention": (
        lambda c, _: blocks.SelfAttention(c),
        lambda c, _: timm.layers.Attention(c, c // 64, qkv_bias=True),
    ),
    "PostNormBlock": (
        lambda c, _: blocks.PostNormBlock(c),
        lambda c, _: nn.TransformerEncoderLayer(c, c // 64, 4 * c, dropout=0.0, batch_first=True),
    ),
    "TransformerBlock": (
        lambda c, _: blocks.TransformerBlock(c),
        lambda c, _: vision_transformer.Block(c, c // 64, qkv_bias=True),
    ),
}


def forward(module: nn.Module, x: Tensor, autocast: torch.autocast) -> None:
    """Run one forward pass in inference mode."""
    with torch.inference_mode(), autocast:
        module(x)


def forward_backward(module: nn.Module, x: Tensor, autocast: torch.autocast) -> None:
    """Run one forward and backward pass, as in training."""
    with autocast:
        y = module(x)
    y.backward(torch.ones_like(y))
    module.zero_grad()
    x.grad = None


def timed(runs: Sequence[Callable[[], None]], turns: int) -> dict[str, Any]:
    """Time ours and two instances of the reference in turns; return the ratio of ours and the bar."""
    repetitions = max(1, round(TURN_SECONDS / seconds(runs[1])))
    taken = in_turns(runs, turns, repetitions, held=2**24)
    ratios = [ours / theirs for ours, theirs, _ in taken]
    apart = [max(theirs, other) / min(theirs, other) for _, theirs, other in taken]
    return {
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4),
        "bar": statistics.quantiles(apart, n=4)[2],
        "turns": turns,
    }


def above_the_bar(cell: dict[str, Any]) -> bool:
    """Return True if ours was slower than the reference by more than the bar."""
    return bool(cell["ratio"] > cell["bar"])


def instances(name: str, c: int, size: int, layout: str) -> list[nn.Module]:
    """Build our module and two instances of the reference."""
    ours, theirs = PAIRS[name]
    built = [cifarblocks.accelerate(ours(c, size)), theirs(c, size), theirs(c, size)]
    return built if name in TOKENS else [module.to(memory_format=FORMATS[layout]) for module in built]


def compare(name: str, c: int, size: int, dtype: torch.dtype, layout: str) -> dict[str, Any]:
    """Return the ratios of time and memory of one pair in one setting, for forward and for forward and backward."""
    if name in TOKENS:
        x = torch.randn(BATCH, size * size, c)
    else:
        x = torch.randn(BATCH, c, size, size).to(memory_format=FORMATS[layout])
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    result: dict[str, Any] = {}
    for mode, step in (("forward", forward), ("forward and backward", forward_backward)):
        training = mode != "forward"
        x.requires_grad_(training)
        for turns in TURNS:
            runs = [partial(step, module.train(training), x, autocast) for module in instances(name, c, size, layout)]
            for run in runs:
                run()
            result[mode] = timed(runs, turns)
            if not above_the_bar(result[mode]):
                break
        result[mode]["memory"] = peak_memory(runs[0]) / peak_memory(runs[1])
    return result


def measure(name: str) -> list[dict[str, Any]]:
    """Measure one pair in all settings."""
    layouts = ["contiguous"] if name in TOKENS else list(FORMATS)
    shapes, rows = (*SHAPES, *MORE_SHAPES.get(name, ())), []
    for (c, size), dtype, layout in product(shapes, (torch.float32, torch.bfloat16), layouts):
        setting = {"name": name, "channels": c, "size": size, "dtype": str(dtype).removeprefix("torch.")}
        rows.append({**setting, "layout": layout, **compare(name, c, size, dtype, layout)})
    return rows


def line(row: dict[str, Any]) -> str:
    """Return one setting as a line of the table."""
    cells = [row["name"], f"{row['channels']}×{row['size']}×{row['size']}", row["dtype"], row["layout"]]
    for mode in ("forward", "forward and backward"):
        cell = row[mode]
        ratio = f"{cell['ratio']:.2f}"
        cells += [f"**{ratio}**" if above_the_bar(cell) else ratio, f"{cell['bar']:.2f}"]
    cells += [f"{row[mode]['memory']:.2f}" for mode in ("forward", "forward and backward")]
    return f"| {' | '.join(cells)} |"


def table(result: dict[str, Any]) -> str:
    """Return the page of the record."""
    rows = result["rows"]
    cells = [row[mode] for row in rows for mode in ("forward", "forward and backward")]
    above = sum(map(above_the_bar, cells))
    longer = sum(cell["turns"] > TURNS[0] for cell in cells)
    training = [row["forward and backward"]["ratio"] for row in rows]
    return f"""# Every block against its reference

Made by `python benchmarks/blocks.py`: our time, with `accelerate`, divided by the time of the reference. Below 1, ours
is faster. Over all settings, the median of forward and backward is {statistics.median(training):.2f}.

- The reference is the class of timm or torchvision that computes the same. For other blocks it is in
  [arrangements.py](../arrangements.py).
- Ratios are medians of {TURNS[0]} alternating turns in one process, in batches of {BATCH}. A ratio above the bar was
  measured again in {TURNS[1]} turns ({longer} cells).
- The bar is the noise of the measurement. Two instances of the reference are timed in each turn. The bar is the third
  quartile of the slower time divided by the faster.
- Bold is above the bar: {above} of {len(cells)} cells.
- bfloat16 is autocast. Forward is in inference mode. Freed memory stays in the process.
- Memory is the peak of allocated memory, ours divided by the reference's.
- {described(result)}.

| block | map | dtype | layout | forward | bar | forward and backward | bar | memory | memory, with backward |
|---|---|---|---|---:|---:|---:|---:|---:|---:|
{chr(10).join(map(line, rows))}
"""


if __name__ == "__main__":
    chosen = typed(__doc__, "BLOCK")
    keep_freed_memory()  # otherwise one of two equal modules waits for new pages, by chance
    sys.exit(renew(f"blocks.{processor()}", chosen, PAIRS, measure, table))
