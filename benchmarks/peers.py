"""Reference networks of the benchmarks: the plans of ours in classes of other libraries, with the same weights.

Networks of torchvision and timm are built from their classes. The others are built from torch modules as in the
authors' code or, for ResNet-20, as in the usual CIFAR repositories.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from arrangements import LSK, MSCA, ChannelsFirstNorm, HorNetBlock, UnitBlock, our_name
from timm.models import convnext, ghostnet, maxxvit, mlp_mixer, resnest
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

import cifarblocks

CLASSES = 10


class Peer(NamedTuple):
    """Our network and its reference network: the source of the reference, and how it is built."""

    ours: str
    origin: str
    build: Callable[[], nn.Module]
    source: str | None = None  # of `load_published`; None: the modules have `OURS`


class Projection(nn.Sequential):
    """Shortcut for a change of shape."""

    OURS: ClassVar = {"0": "conv", "1": "norm"}


class CifarBlock(nn.Module):
    """Basic block of the CIFAR repositories."""

    OURS: ClassVar = {"bn1": "norm1", "bn2": "norm2"}

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = Projection(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return torch.relu(y)


class Network(nn.Module):
    """Stem, stages, global average, linear layer."""

    OURS: ClassVar = {"norm": "head.after", "classifier": "head.classifier"}

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], channels: int, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.Sequential(*stages)
        self.norm = nn.Identity() if norm is None else norm
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(self.stages(self.stem(x)).mean((2, 3))))


class TokenNorm(nn.LayerNorm):
    """LayerNorm of tokens, as in SegNeXt's and LSKNet's code."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


def resnet_20() -> nn.Module:
    """Build the ResNet-20 of the CIFAR repositories."""
    stages: list[nn.Module] = []
    channels = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        blocks = [CifarBlock(channels if i == 0 else width, width, stride if i == 0 else 1) for i in range(3)]
        stages.append(nn.Sequential(*blocks))
        channels = width
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return Network(stem, stages, 64)


def resnet_18() -> nn.Module:
    """Build torchvision's ResNet-18 with the usual stem for CIFAR."""
    model = torchvision_resnet.resnet18(num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def convnext_atto() -> nn.Module:
    """Build timm's ConvNeXt-Atto with patches of 2 and a last stage of stride 1."""
    model = convnext.ConvNeXt(
        patch_size=2, depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), conv_mlp=True, num_classes=CLASSES
    )
    model.stages[0].downsample = nn.Identity()
    model.stages[3].downsample[1] = nn.Conv2d(160, 320, 1)
    return model


def ghostnet_100() -> nn.Module:
    """Build timm's GhostNet with the strides of ours."""
    model = ghostnet.ghostnet_100(num_classes=CLASSES)
    model.conv_stem.stride = (1, 1)
    block = model.blocks[1][0]  # the first of 24 channels
    block.conv_dw = block.bn_dw = None
    block.shortcut[0].stride = (1, 1)
    return model


def resnest_nano() -> nn.Module:
    """Build timm's ResNeSt with half the widths and a stem for small images."""
    model = ResNet(
        resnest.ResNestBottleneck,
        [2, 2, 2, 2],
        num_classes=CLASSES,
        channels=(32, 64, 128, 256),
        stem_type="deep",
        stem_width=16,
        avg_down=True,
        block_args={"radix": 2, "avd": True},
    )
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def coatnet_nano() -> nn.Module:
    """Build timm's CoAtNet with the plan of ours, without a stride before the second stage."""
    pooled = {"stride_mode": "1x1", "pool_type": "max"}
    config = maxxvit.MaxxVitCfg(
        embed_dim=(48, 96, 192, 256),
        depths=(2, 3, 5, 2),
        block_type=("C", "C", "T", "T"),
        stem_width=(32, 32),
        head_hidden_size=256,
        conv_cfg=maxxvit.MaxxVitConvCfg(**pooled),
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(pool_type="max", rel_pos_type="bias"),
    )
    # With the original strides, images four times as large give maps of our sizes, and so tables of our sizes.
    model = maxxvit.MaxxVit(config, img_size=128, num_classes=CLASSES)
    model.stem.conv1.stride = (1, 1)
    first = model.stages[0].blocks[0]
    first.conv1_1x1.stride = (1, 1)
    first.shortcut.pool = nn.Identity()
    return model


def mixer() -> nn.Module:
    """Build timm's Mixer with patches of 4."""
    return mlp_mixer.MlpMixer(img_size=32, patch_size=4, embed_dim=256, num_classes=CLASSES)


def patches(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Build a convolution of overlapping patches with BatchNorm."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, padding=1), nn.BatchNorm2d(c_out))


def segnext(stem: nn.Module, attention: Callable[[int], nn.Module], eps: float) -> nn.Module:
    """Build the tiny network that SegNeXt and LSKNet share."""
    stages: list[nn.Module] = []
    channels = 32
    for width, depth, ratio, stride in zip((32, 64, 160, 256), (3, 3, 5, 2), (8, 8, 4, 4), (1, 2, 2, 1), strict=True):
        layers: list[nn.Module] = [patches(channels, width, stride)] if stages else []
        layers += [UnitBlock(width, attention(width), ratio) for _ in range(depth)]
        stages.append(nn.Sequential(*layers, TokenNorm(width, eps=eps)))
        channels = width
    return Network(stem, stages, channels)


def mscan_tiny() -> nn.Module:
    """Build SegNeXt's encoder with a stem of stride 2."""
    return segnext(nn.Sequential(patches(3, 16, 1), nn.GELU(), patches(16, 32, 2)), MSCA, 1e-5)


def lsknet_tiny() -> nn.Module:
    """Build LSKNet with a stem of stride 2."""
    return segnext(patches(3, 32, 2), LSK, 1e-6)


def hornet_nano() -> nn.Module:
    """Build HorNet with the plan of ours."""
    stages: list[nn.Module] = []
    for i, (depth, size) in enumerate(zip((2, 2, 6, 2), (None, 2, 2, 1), strict=True)):
        width = 40 * 2**i
        layers: list[nn.Module] = []
        if size:
            layers = [nn.Sequential(ChannelsFirstNorm(width // 2), nn.Conv2d(width // 2, width, size, size))]
        stages.append(nn.Sequential(*layers, *[HorNetBlock(width, i + 2) for _ in range(depth)]))
    stem = nn.Sequential(nn.Conv2d(3, 40, 2, 2), ChannelsFirstNorm(40))
    return Network(stem, stages, 320, nn.LayerNorm(320, eps=1e-6))


PEERS = {
    "ResNet-20": Peer("resnet_20", "CIFAR repositories", resnet_20),
    "ResNet-18": Peer("resnet_18", "torchvision", resnet_18, "torchvision"),
    "ConvNeXt": Peer("convnext_atto_cifar", "timm", convnext_atto, "timm"),
    "MSCAN": Peer("segnext_mscan_tiny_cifar", "arrangements.py", mscan_tiny),
    "LSKNet": Peer("lsknet_tiny_cifar", "arrangements.py", lsknet_tiny),
    "HorNet": Peer("hornet_nano_cifar", "arrangements.py", hornet_nano),
    "GhostNet": Peer("ghostnet_100_cifar", "timm", ghostnet_100, "timm"),
    "ResNeSt": Peer("resnest_nano_cifar", "timm", resnest_nano, "timm"),
    "CoAtNet": Peer("coatnet_nano_cifar", "timm", coatnet_nano, "timm"),
    "Mixer": Peer("mlp_mixer_cifar", "timm", mixer, "timm"),
}

# Goals on each kind of processor: speed-ups of a training step, and of inference by batch size.
TRAINING_GOALS = {
    "amx_bf16": dict(zip(PEERS, (3.2, 3.5, 2.6, 3.2, 3.6, 3.2, 3.0, 3.5, 4.2, 2.9), strict=True)),
    "avx512_bf16": dict(zip(PEERS, (2.61, 2.70, 1.99, 2.83, 3.99, 2.86, 2.61, 3.02, 2.98, 2.30), strict=True)),
    "float32": dict.fromkeys(PEERS, 1.0),
}
INFERENCE_GOALS = {
    256: {
        "amx_bf16": dict.fromkeys(PEERS, 3.0) | {"ResNet-20": 6.0, "ResNet-18": 6.0},
        "avx512_bf16": dict.fromkeys(PEERS, 3.0),
        "float32": dict.fromkeys(PEERS, 1.0),
    },
    1: dict.fromkeys(TRAINING_GOALS, dict.fromkeys(PEERS, 1.35)),
}


@torch.no_grad()
def waken(network: nn.Module) -> None:
    """Replace parameters that start at or near 0, such as scales of branches: every layer must affect the output."""
    for name, parameter in network.named_parameters():
        if parameter.abs().max() <= 1e-5 and not name.endswith("bias"):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            else:
                parameter.fill_(0.1 if parameter.any() else 1)  # a LayerScale, or the weight of a norm


def build(name: str) -> tuple[nn.Module, nn.Module]:
    """Build our network and its reference network with the same weights."""
    peer = PEERS[name]
    theirs = peer.build()
    waken(theirs)
    ours = cifarblocks.create_model(peer.ours, num_classes=CLASSES)
    if peer.source:
        cifarblocks.load_published(ours, theirs.state_dict(), peer.source)
    else:
        ours.load_state_dict({our_name(theirs, key): tensor for key, tensor in theirs.state_dict().items()})
    return ours, theirs
