"""Stages of a network: sequences of blocks from a plan of widths, depths and strides."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cifarblocks.blocks.checks import require_rate
from cifarblocks.models.classifier import FeatureInfo


def drop_path_rates(drop_path: float, depths: Sequence[int]) -> list[list[float]]:
    """Return a rate for each block by stages, growing linearly from 0 at the first block to `drop_path` at the last.

    Raises:
        ValueError: if `drop_path` is not in [0, 1).

    >>> [[round(rate, 2) for rate in stage] for stage in drop_path_rates(0.3, (1, 3))]
    [[0.0], [0.1, 0.2, 0.3]]
    """
    require_rate(drop_path=drop_path)
    rates = iter(torch.linspace(0, drop_path, sum(depths), dtype=torch.float64, device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def build_stages(
    blocks: Sequence[Callable[..., nn.Module]],
    in_channels: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    drop_path: float,
) -> list[nn.Sequential]:
    """Build stages of blocks whose first block has the stride: ResNet and its relatives.

    Args:
        blocks: one for each stage, called as block(in_channels, out_channels, stride, drop_path=rate).
        in_channels: output channels of the stem.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of each stage.
        drop_path: rate of the last block; see `drop_path_rates`.
    """
    stages = []
    for block, width, stride, rates in zip(blocks, widths, strides, drop_path_rates(drop_path, depths), strict=True):
        stage = nn.Sequential()
        for position, rate in enumerate(rates):
            stage.append(block(in_channels, width, stride if position == 0 else 1, drop_path=rate))
            in_channels = width
        stages.append(stage)
    return stages


def build_transition_stages(
    blocks: Sequence[Callable[..., nn.Module]],
    transition: Callable[[int, int, int], nn.Module],
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    drop_path: float,
    end: Callable[[int], nn.Module] | None = None,
) -> list[nn.Sequential]:
    """Build stages of blocks that keep the map, with a transition between stages: ConvNeXt and its relatives.

    Args:
        blocks: one for each stage, called as block(channels, drop_path=rate).
        transition: called as transition(in_channels, out_channels, stride).
        widths: channels of each stage; those of the first are the output channels of the stem.
        depths: blocks of each stage.
        strides: stride of each stage's transition; that of the first is 1.
        drop_path: rate of the last block; see `drop_path_rates`.
        end: called as end(channels) for the last module of each stage; by default there is none.
    """
    stages = []
    rates = drop_path_rates(drop_path, depths)
    for place, (block, width) in enumerate(zip(blocks, widths, strict=True)):
        parts = [transition(widths[place - 1], width, strides[place])] if place else []
        parts += [block(width, drop_path=rate) for rate in rates[place]]
        parts += [end(width)] if end else []
        stages.append(nn.Sequential(*parts))
    return stages


def stage_info(widths: Sequence[int], strides: Sequence[int], stem_stride: int) -> list[FeatureInfo]:
    """Return channels and stride of each stage's map, for stages after a stem of a stride."""
    infos = []
    reduction = stem_stride
    for width, stride in zip(widths, strides, strict=True):
        reduction *= stride
        infos.append(FeatureInfo(width, reduction))
    return infos
