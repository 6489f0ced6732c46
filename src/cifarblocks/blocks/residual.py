"""Residual blocks: ResNet, He et al. 2016, https://arxiv.org/abs/1512.03385; ResNeXt, arXiv 1611.05431; Wide ResNet."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath
from cifarblocks.blocks.checks import require_int, require_number, require_part, require_rate

Attention = Callable[[int], nn.Module]  # channels → a module that keeps (b, c, h, w)
Shortcut = Callable[[int, int, int], nn.Module]  # in_channels, out_channels, stride → the shortcut


class ProjectionShortcut(nn.Sequential):
    """Option B of section 3.3: the identity, or a strided 1×1 convolution and BatchNorm where the shape changes.

    Formula: y = x where the shape is kept, else BN(conv1×1(x))

    Origin: written from the paper; equal to that of torchvision's ResNet (BSD-3).

    Shape: (b, c, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)

    Cost: c·d + 2·d parameters, c·d·h·w multiply-adds, from c to d channels at stride 1; none where the shape is kept.

    Raises:
        ValueError: if a size is below 1.

    >>> ProjectionShortcut(16, 32, 2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        if stride != 1 or in_channels != out_channels:
            self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.norm = nn.BatchNorm2d(out_channels)


class PaddingShortcut(nn.Module):
    """Option A of section 3.3: every stride-th pixel, and zeros for the new channels; no parameters.

    The paper does not say where the zeros are. As in the common CIFAR code, half of them (rounded down) come before
    the channels and the rest after. fb.resnet.torch puts all of them after.

    Formula: y = concat(0, x at every stride-th pixel, 0)

    Origin: written from the paper; the common CIFAR code, akamaster/pytorch_resnet_cifar10, is BSD-2.

    Shape: (b, c, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)

    Cost: 0 parameters, 0 multiply-adds.

    Raises:
        ValueError: if a size is below 1, or `out_channels` below `in_channels`.

    >>> PaddingShortcut(16, 32, 2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        if out_channels < in_channels:
            raise ValueError(f"out_channels must be at least in_channels ({in_channels}) to pad, got {out_channels}")
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 1, self.stride)  # every stride-th pixel; a slice of an odd map would have no memory format
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (section 3.3, figure 5 left).

    Formula: y = ReLU(shortcut(x) + attention(BN(conv3×3(ReLU(BN(conv3×3(x)))))))

    Origin: written from the paper; equal to torchvision's BasicBlock (BSD-3).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        attention: builds the attention module from `out_channels`, for example `ECA`; by default there is none.
        attention_position: where the attention is: 1 after the first BatchNorm, 2 after the second (as in ECA-Net and
            SENet), 3 after the addition.
        shortcut: builds the shortcut, `ProjectionShortcut` or `PaddingShortcut`.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 18·c² + 4·c parameters, 18·c²·h·w multiply-adds, keeping c channels and the map.

    Raises:
        ValueError: if `attention_position` is not 1, 2 or 3, or `drop_path` not in [0, 1).

    >>> BasicBlock(16, 32, stride=2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        attention: Attention = nn.Identity,
        attention_position: int = 2,
        shortcut: Shortcut = ProjectionShortcut,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_int(1, attention_position=attention_position)
        require_part(1, attention=attention)
        require_part(3, shortcut=shortcut)
        require_rate(drop_path=drop_path)
        if attention_position > 3:
            raise ValueError(f"attention_position must be 1, 2 or 3, got {attention_position!r}")
        attentions = {place: nn.Identity() for place in (1, 2, 3)} | {attention_position: attention(out_channels)}
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.attention1 = attentions[1]
        self.activation1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.attention2 = attentions[2]
        self.drop_path = DropPath(drop_path)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.attention3 = attentions[3]
        self.activation2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.attention1(self.norm1(self.conv1(x))))
        y = self.attention2(self.norm2(self.conv2(y)))
        y = self.attention3(self.drop_path(y) + self.shortcut(x))
        return self.activation2(y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut (section 4.1, figure 5 right), grouped in form C of ResNeXt.

    The stride is on the 3×3 convolution ("v1.5", as in torchvision, timm and the ResNeXt code). The ResNet paper has it
    on the first 1×1.

    Formula: y = ReLU(shortcut(x) + attention(BN(conv1×1(ReLU(BN(conv3×3(ReLU(BN(conv1×1(x))))))))))

    Origin: written from the papers; equal to torchvision's Bottleneck (BSD-3).

    Args:
        in_channels: channels of the input.
        bottleneck_channels: width in the papers' tables (64, 128, 256, 512); the output has four times as many.
        stride: stride of the 3×3 convolution and of the shortcut.
        groups: groups of the 3×3 convolution, ResNeXt's cardinality.
        base_width: width of one group where `bottleneck_channels` is 64; the 3×3 convolution has
            ⌊bottleneck_channels · base_width / 64⌋ · groups channels.
        attention: builds the attention module after the last BatchNorm from the output channels; by default there is
            none.
        shortcut: builds the shortcut.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, 4 · bottleneck_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 17·p² + 12·p parameters, 17·p²·h·w multiply-adds, keeping 4·p channels and the map, one group.

    Raises:
        ValueError: if a size is below 1, `drop_path` is not in [0, 1), or the 3×3 convolution would have no channels.

    >>> Bottleneck(64, 32, stride=2, groups=8, base_width=16)(torch.randn(2, 64, 7, 5)).shape
    torch.Size([2, 128, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        stride: int = 1,
        groups: int = 1,
        base_width: int = 64,
        *,
        attention: Attention = nn.Identity,
        shortcut: Shortcut = ProjectionShortcut,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, stride=stride)
        require_part(1, attention=attention)
        require_part(3, shortcut=shortcut)
        require_rate(drop_path=drop_path)
        width = bottleneck_width(bottleneck_channels, base_width, groups)
        out_channels = 4 * bottleneck_channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.activation1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.activation2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.attention = attention(out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.activation3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.activation2(self.norm2(self.conv2(y)))
        y = self.attention(self.norm3(self.conv3(y)))
        return self.activation3(self.drop_path(y) + self.shortcut(x))


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each 3×3 convolution: the block of Wide ResNet, https://arxiv.org/abs/1605.07146.

    Where the shape changes, the shortcut is a 1×1 convolution of the normalised input without norm, as in the authors'
    code. Nothing follows the addition.

    Formula: y = shortcut + attention(conv3×3(ReLU(BN(conv3×3(z))))), z = ReLU(BN(x)), shortcut = x or conv1×1(z)

    Origin: written from the paper; the authors' code is BSD-2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        attention: builds the attention module at the end of the branch from `out_channels`; by default there is none.
        dropout: dropout rate between the convolutions.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 18·c² + 4·c parameters, 18·c²·h·w multiply-adds, keeping c channels and the map.

    Raises:
        ValueError: if a size is below 1, or `drop_path` not in [0, 1).

    >>> PreActBlock(16, 32, stride=2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        attention: Attention = nn.Identity,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_part(1, attention=attention)
        require_number(0, 1, dropout=dropout)
        require_rate(drop_path=drop_path)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.activation1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.attention = attention(out_channels)
        self.drop_path = DropPath(drop_path)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.dropout(self.activation2(self.norm2(self.conv1(y)))))
        y = self.attention(y)
        return shortcut + self.drop_path(y)


def bottleneck_width(bottleneck_channels: int, base_width: int, groups: int) -> int:
    """⌊bottleneck_channels · base_width / 64⌋ · groups, the channels of the 3×3 convolution of a bottleneck.

    Raises:
        ValueError: if that, or one of the three, is below 1.

    >>> bottleneck_width(128, 4, 32)
    256
    """
    require_int(1, bottleneck_channels=bottleneck_channels, base_width=base_width, groups=groups)
    width = bottleneck_channels * base_width // 64 * groups
    if width < 1:
        raise ValueError(
            f"bottleneck_channels · base_width must be at least 64, got {bottleneck_channels} · {base_width}"
        )
    return width
