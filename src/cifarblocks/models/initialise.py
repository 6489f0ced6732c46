"""Initial weights, one rule per family, as in its paper or its authors' code; each is for `Module.apply`."""

import math

from torch import nn

from cifarblocks.blocks.relative_attention import RelativeTransformerBlock


def initialise_resnet(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan-out), https://arxiv.org/abs/1502.01852; biases stay torch's."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def initialise_convnext(module: nn.Module) -> None:
    """Draw convolutions and linear layers from N(0, 0.02²), cut off at ±2; biases are 0 (appendix A.1)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        zero_bias(module)


def initialise_mscan(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan-out), linear layers from N(0, 0.02²); biases are 0."""
    if isinstance(module, nn.Conv2d):
        draw_by_fan_out(module)
    elif isinstance(module, nn.Linear):
        initialise_convnext(module)


def initialise_coatnet(module: nn.Module) -> None:
    """Draw convolutions as EfficientNet, from N(0, 2 / fan-out), and those in blocks of attention as ViT, by Xavier.

    Biases of convolutions are 0; linear layers stay torch's.
    """
    if isinstance(module, nn.Conv2d):
        draw_by_fan_out(module)
    elif isinstance(module, RelativeTransformerBlock):  # `apply` visits a block after its convolutions
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)


def initialise_vit(module: nn.Module) -> None:
    """Draw linear layers from N(0, 0.02²) as DeiT, the patches with variance 1 / fan-in; biases are 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        std = 0.02 if isinstance(module, nn.Linear) else module.weight[0].numel() ** -0.5
        nn.init.trunc_normal_(module.weight, std=std)
        zero_bias(module)


def initialise_mixer(module: nn.Module) -> None:
    """Draw all weights with variance 1 / fan-in, flax's default; the authors' code has zeros in the last layer."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        zero_bias(module)


def draw_by_fan_out(conv: nn.Conv2d) -> None:
    """Draw weights from N(0, 2 / fan-out), the fan-out that of one group; the bias is 0."""
    fan_out = conv.out_channels * math.prod(conv.kernel_size) // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    zero_bias(conv)


def zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the bias to 0, if there is one."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
