"""Reference blocks that no installed library has, written module by module as in their papers.

Every step is a torch module or one tensor operation. Nothing is computed twice, and nothing is fused by hand. `OURS` of
each class maps its names to those of our block.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def our_name(module: nn.Module, name: str) -> str:
    """Return the name in our block of the parameter or buffer `name` of a reference block."""
    ours = []
    for part in name.split("."):
        ours.append(getattr(module, "OURS", {}).get(part, part))
        module = getattr(module, part)
    return ".".join(ours)


def depthwise(channels: int, size: int | tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    """Build a depthwise convolution that keeps the size of the map."""
    height, width = (size, size) if isinstance(size, int) else size
    padding = (dilation * (height // 2), dilation * (width // 2))
    return nn.Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=channels)


class MSCA(nn.Module):
    """SegNeXt's attention module."""

    OURS: ClassVar = {"conv0": "local", "conv3": "mix"} | {
        f"conv{i}_{j + 1}": f"strips.{i}.{j}" for i in range(3) for j in range(2)
    }

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv0 = depthwise(c, 5)
        self.conv0_1, self.conv0_2 = depthwise(c, (1, 7)), depthwise(c, (7, 1))
        self.conv1_1, self.conv1_2 = depthwise(c, (1, 11)), depthwise(c, (11, 1))
        self.conv2_1, self.conv2_2 = depthwise(c, (1, 21)), depthwise(c, (21, 1))
        self.conv3 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.conv0(x)
        attention_0 = self.conv0_2(self.conv0_1(attention))
        attention_1 = self.conv1_2(self.conv1_1(attention))
        attention_2 = self.conv2_2(self.conv2_1(attention))
        return self.conv3(attention + attention_0 + attention_1 + attention_2) * x


class LSK(nn.Module):
    """LSKNet's attention, from the paper's equations 3 to 8."""

    OURS: ClassVar = {"choose": "select", "mix": "expand"}

    def __init__(self, c: int) -> None:
        super().__init__()
        self.small, self.large = depthwise(c, 5), depthwise(c, 7, dilation=3)
        self.reduce_small, self.reduce_large = nn.Conv2d(c, c // 2, 1), nn.Conv2d(c, c // 2, 1)
        self.choose = nn.Conv2d(2, 2, 7, padding=3)
        self.mix = nn.Conv2d(c // 2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.small(x)
        large = self.large(small)
        small, large = self.reduce_small(small), self.reduce_large(large)
        both = torch.cat([small, large], dim=1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.max(1, keepdim=True)[0]], dim=1)
        weights = self.choose(pooled).sigmoid()
        return x * self.mix(small * weights[:, 0:1] + large * weights[:, 1:2])


class Unit(nn.Module):
    """The unit around an attention in SegNeXt and LSKNet."""

    OURS: ClassVar = {"proj_1": "branch.0", "attention": "branch.2", "proj_2": "branch.3"}

    def __init__(self, c: int, attention: nn.Module) -> None:
        super().__init__()
        self.proj_1, self.activation = nn.Conv2d(c, c, 1), nn.GELU()
        self.attention = attention
        self.proj_2 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.attention(self.activation(self.proj_1(x)))) + x


class UnitBlock(nn.Module):
    """The block of SegNeXt and LSKNet, with an MLP of `ratio` times the channels."""

    OURS: ClassVar = {"norm1": "attention_norm", "unit": "attention", "norm2": "mlp_norm"}
    OURS |= {"scale1": "attention_scale.gamma", "scale2": "mlp_scale.gamma"}

    def __init__(self, c: int, attention: nn.Module, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.unit = Unit(c, attention)
        self.mlp = nn.Sequential(
            nn.Conv2d(c, ratio * c, 1), depthwise(ratio * c, 3), nn.GELU(), nn.Dropout(0.0), nn.Conv2d(ratio * c, c, 1)
        )
        self.scale1, self.scale2 = nn.Parameter(torch.full((c,), 1e-2)), nn.Parameter(torch.full((c,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1[:, None, None] * self.unit(self.norm1(x))
        return x + self.scale2[:, None, None] * self.mlp(self.norm2(x))


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over channels by tensor operations on (b, c, h, w), as in HorNet's and ConvNeXt's code."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class GlobalFilter(nn.Module):
    """HorNet's global filter: a 3×3 convolution of half the channels, a product of spectra of the other half."""

    def __init__(self, c: int, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = size
        self.local = nn.Conv2d(c // 2, c // 2, 3, padding=1, groups=c // 2, bias=False)
        self.spectrum = nn.Parameter(0.02 * torch.randn(c // 2, height, width // 2 + 1, 2))
        self.norm_in, self.norm_out = ChannelsFirstNorm(c), ChannelsFirstNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        near, far = torch.chunk(self.norm_in(x), 2, dim=1)
        near = self.local(near)
        spectrum = torch.fft.rfft2(
            far.to(torch.promote_types(far.dtype, torch.float32)), dim=(2, 3), norm="ortho"
        ) * torch.view_as_complex(self.spectrum.contiguous())
        far = torch.fft.irfft2(spectrum, s=(h, w), dim=(2, 3), norm="ortho")
        both = torch.cat([near.unsqueeze(2), far.unsqueeze(2)], dim=2).reshape(b, c, h, w)
        return self.norm_out(both)


class GnConv(nn.Module):
    """HorNet's recursive gated convolution."""

    OURS: ClassVar = {"proj_in": "expand", "proj_out": "project"}

    def __init__(self, c: int, order: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.widths = [c // 2**k for k in range(order)][::-1]
        self.proj_in, self.proj_out = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        total = sum(self.widths)
        self.filter = depthwise(total, 7) if size is None else GlobalFilter(total, size)
        self.steps = nn.ModuleList(nn.Conv2d(self.widths[k], self.widths[k + 1], 1) for k in range(order - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, gates = torch.split(self.proj_in(x), [self.widths[0], sum(self.widths)], dim=1)
        gate, *others = torch.split(self.filter(gates) * (1 / 3), self.widths, dim=1)
        x = first * gate
        for step, gate in zip(self.steps, others, strict=True):
            x = step(x) * gate
        return self.proj_out(x)


class HorNetBlock(nn.Module):
    """HorNet's block, whose MLP has linear layers on (b, h, w, c)."""

    OURS: ClassVar = {"norm1": "gnconv_norm", "norm2": "mlp_norm", "expand": "mlp.0", "project": "mlp.2"}
    OURS |= {"gamma1": "gnconv_scale.gamma", "gamma2": "mlp_scale.gamma"}

    def __init__(self, c: int, order: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelsFirstNorm(c), nn.LayerNorm(c, eps=1e-6)
        self.gnconv = GnConv(c, order)
        self.expand, self.activation, self.project = nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)
        self.gamma1, self.gamma2 = nn.Parameter(torch.full((c,), 1e-6)), nn.Parameter(torch.full((c,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1[:, None, None] * self.gnconv(self.norm1(x))
        y = self.norm2(x.permute(0, 2, 3, 1))
        y = self.gamma2 * self.project(self.activation(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class LSKMBConv(nn.Module):
    """Inverted bottleneck with three depthwise branches that are weighted as in SKNet."""

    OURS: ClassVar = {
        "reduce": "select.0",
        "choose": "select.2",
        "gate_reduce": "gate.reduce",
        "gate_expand": "gate.expand",
    }

    def __init__(self, c: int) -> None:
        super().__init__()
        hidden = 4 * c
        self.expand = nn.Sequential(nn.Conv2d(c, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU6(),
            )
            for k in (3, 5, 7)
        )
        self.reduce = nn.Conv2d(hidden, hidden // 8, 1, bias=False)
        self.choose = nn.Conv2d(hidden // 8, 3 * hidden, 1, bias=False)
        self.gate_reduce, self.gate_expand = nn.Conv2d(hidden, c, 1), nn.Conv2d(c, hidden, 1)
        self.project = nn.Sequential(nn.Conv2d(hidden, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        z = self.expand(x)
        first, second, third = (branch(z) for branch in self.branches)
        average = (first + second + third).mean((2, 3), keepdim=True)
        weights = self.choose(self.reduce(average).relu()).view(len(x), 3, -1, 1, 1).softmax(1)
        y = first * weights[:, 0] + second * weights[:, 1] + third * weights[:, 2]
        gate = self.gate_expand(F.relu6(self.gate_reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.project(y * gate)


class PreActBlock(nn.Module):
    """Wide ResNet's block."""

    OURS: ClassVar = {"bn1": "norm1", "bn2": "norm2"}

    def __init__(self, c: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.bn1(x)))
        return x + self.conv2(self.relu2(self.bn2(y)))
