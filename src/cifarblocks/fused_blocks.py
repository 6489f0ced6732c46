"""Blocks for `fuse`, whose layers compute the addition and the activation that follow them in their own call.

Each replaces the class of a block, keeps its modules, and computes the same in training.
"""

from typing import Any, NamedTuple

from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.convnext import ConvNeXtBlock
from cifarblocks.blocks.csp import CSPBottleneck
from cifarblocks.blocks.gnconv import GnConv, HorNetBlock
from cifarblocks.blocks.lsk import LSKBlock, LSKUnit
from cifarblocks.blocks.mbconv import InvertedResidual, MBConv
from cifarblocks.blocks.mixer import MixerLayer, with_tokens
from cifarblocks.blocks.msca import MSCABlock, MSCAUnit
from cifarblocks.blocks.relative_attention import RelativeTransformerBlock
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PreActBlock
from cifarblocks.blocks.split_attention import ResNeStBottleneck
from cifarblocks.blocks.transformer import TransformerBlock
from cifarblocks.native.packed import PackedConv2d, PackedLinear, finished, has_hooks

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU)  # that a packed layer may compute


class Fused(NamedTuple):
    """A fused block, its parts that must be the identity in eval mode, and its parts that compute what follows them."""

    block: type[nn.Module]
    identities: tuple[str, ...] = ()
    taking: tuple[str, ...] = ()


class FusedSequential(nn.Sequential):
    """Sequential in which each packed layer computes the activation after it, and the last one also an addition."""

    def forward(self, x: Tensor) -> Tensor:
        return self.computed(x)

    def followed_by(self, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
        """Return activation(self(x) + plus)."""
        return finished(self(x), plus, activation) if has_hooks(self) else self.computed(x, plus, activation)

    def computed(self, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
        """Return activation(self(x) + plus), whatever hooks there are."""
        layers = [layer for layer in self._modules.values() if not changes_nothing(layer)]
        while layers:
            layer, *layers = layers
            if isinstance(layer, PackedConv2d | PackedLinear) and layers and type(layers[0]) in ACTIVATIONS:
                x = layer.followed_by(x, None, layers.pop(0))
            elif isinstance(layer, TAKING) and not layers:
                return layer.followed_by(x, plus, activation)
            else:
                x = layer(x)
        return finished(x, plus, activation)


def changes_nothing(layer: nn.Module) -> bool:
    """Return True for an Identity, or a Dropout in eval mode, without hooks."""
    return type(layer) in (nn.Identity, nn.Dropout) and not layer.training and not has_hooks(layer)


class FusedGnConv(GnConv):
    """Recursive gated convolution, and what is added."""

    def forward(self, x: Tensor) -> Tensor:
        return self.computed(x)

    def followed_by(self, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
        """Return activation(self(x) + plus)."""
        return finished(self(x), plus, activation) if has_hooks(self) else self.computed(x, plus, activation)

    def computed(self, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
        """Return activation(self(x) + plus), whatever hooks there are."""
        y, gates = self.expand(x).split([self.widths[0], sum(self.widths)], dim=1)
        gates = (self.filter(gates) * self.scale).split(self.widths, dim=1)
        y = y * gates[0]
        for k, step in enumerate(self.steps):
            y = step(y) * gates[k + 1]
        return followed(self.project, y, plus, activation)


def followed(layer: Any, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
    """Return activation(layer(x) + plus), of a layer that takes them."""
    return layer.followed_by(x, plus, activation)


TAKING = (PackedConv2d, PackedLinear, FusedSequential, FusedGnConv)


class FusedBasicBlock(BasicBlock):
    """Basic block in two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        y = followed(self.conv1, x, None, self.activation1)
        if type(self.attention2) is type(self.attention3) is nn.Identity:
            return followed(self.conv2, y, self.shortcut(x), self.activation2)
        y = self.attention3(self.attention2(self.conv2(y)) + self.shortcut(x))
        return self.activation2(y)


class FusedBottleneck(Bottleneck):
    """Bottleneck in three convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        y = followed(self.conv2, followed(self.conv1, x, None, self.activation1), None, self.activation2)
        if type(self.attention) is nn.Identity:
            return followed(self.conv3, y, self.shortcut(x), self.activation3)
        return self.activation3(self.attention(self.conv3(y)) + self.shortcut(x))


class FusedPreActBlock(PreActBlock):
    """Pre-activation block whose second convolution adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        y = self.activation1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return followed(self.conv2, followed(self.conv1, y, None, self.activation2), shortcut)


class FusedResNeStBottleneck(ResNeStBottleneck):
    """ResNeSt's bottleneck whose last convolution adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return followed(self.expand, self.pool(self.attention(self.reduce(x))), self.shortcut(x), self.activation)


class FusedCSPBottleneck(CSPBottleneck):
    """Bottleneck of a CSP stage whose last convolution adds the input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return followed(self.expand, self.conv(self.reduce(x)), x, self.activation)


class FusedInvertedResidual(InvertedResidual):
    """Inverted residual whose last convolution adds the input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return followed(self.project, self.gate(self.depthwise(self.expand(x))), x if self.has_shortcut else None)


class FusedMBConv(MBConv):
    """CoAtNet's inverted residual whose last convolution adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return followed(self.project, self.gate(self.depthwise(self.expand(self.norm(x)))), self.shortcut(x))


class FusedRelativeTransformerBlock(RelativeTransformerBlock):
    """Transformer block on maps whose MLP adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        x = self.shortcut(x) + self.attention(self.pool(self.attention_norm(x)))
        return followed(self.mlp, self.mlp_norm(x), x)


class FusedTransformerBlock(TransformerBlock):
    """Transformer block whose MLP adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        x = x + self.attention(self.attention_norm(x))
        return followed(self.mlp, self.mlp_norm(x), x)


class FusedMixerLayer(MixerLayer):
    """Mixer layer whose MLP of each token adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        y = self.token_mlp(rearrange(self.token_norm(with_tokens(x, self.tokens)), "b n c -> b c n"))
        x = x + rearrange(y, "b c n -> b n c")
        return followed(self.channel_mlp, self.channel_norm(x), x)


class FusedConvNeXtBlock(ConvNeXtBlock):
    """ConvNeXt's block whose last linear layer adds the input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        pixels = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = followed(self.project, followed(self.expand, pixels, None, self.activation), x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class FusedHorNetBlock(HorNetBlock):
    """HorNet's block whose branches add their input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        pixels = followed(self.gnconv, self.gnconv_norm(x), x).permute(0, 2, 3, 1)
        return followed(self.mlp, self.mlp_norm(pixels), pixels).permute(0, 3, 1, 2)


class FusedMSCAUnit(MSCAUnit):
    """Unit of MSCA whose branch adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        return followed(self.branch, x, x)


class FusedLSKUnit(LSKUnit):
    """Unit of LSK whose branch adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        return followed(self.branch, x, x)


class FusedMSCABlock(MSCABlock):
    """SegNeXt's block whose MLP adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        x = x + self.attention_scale(self.attention(self.attention_norm(x)))
        return followed(self.mlp, x, x)


class FusedLSKBlock(LSKBlock):
    """LSKNet's block whose MLP adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        x = x + self.attention_scale(self.attention(self.attention_norm(x)))
        return followed(self.mlp, x, x)


FUSED: dict[type[nn.Module], Fused] = {
    nn.Sequential: Fused(FusedSequential),
    GnConv: Fused(FusedGnConv, (), ("project",)),
    BasicBlock: Fused(FusedBasicBlock, ("norm1", "attention1", "norm2", "drop_path"), ("conv1", "conv2")),
    Bottleneck: Fused(FusedBottleneck, ("norm1", "norm2", "norm3", "drop_path"), ("conv1", "conv2", "conv3")),
    PreActBlock: Fused(FusedPreActBlock, ("norm2", "dropout", "attention", "drop_path"), ("conv1", "conv2")),
    ResNeStBottleneck: Fused(FusedResNeStBottleneck, ("drop_path",), ("expand",)),
    CSPBottleneck: Fused(FusedCSPBottleneck, ("drop_path",), ("expand",)),
    InvertedResidual: Fused(FusedInvertedResidual, ("drop_path",), ("project",)),
    MBConv: Fused(FusedMBConv, ("drop_path",), ("project",)),
    RelativeTransformerBlock: Fused(FusedRelativeTransformerBlock, ("drop_path",), ("mlp",)),
    TransformerBlock: Fused(FusedTransformerBlock, ("drop_path",), ("mlp",)),
    MixerLayer: Fused(FusedMixerLayer, ("drop_path",), ("channel_mlp",)),
    ConvNeXtBlock: Fused(FusedConvNeXtBlock, ("response_norm", "scale", "drop_path"), ("expand", "project")),
    HorNetBlock: Fused(FusedHorNetBlock, ("gnconv_scale", "mlp_scale", "drop_path"), ("gnconv", "mlp")),
    MSCAUnit: Fused(FusedMSCAUnit, (), ("branch",)),
    LSKUnit: Fused(FusedLSKUnit, (), ("branch",)),
    MSCABlock: Fused(FusedMSCABlock, ("mlp_norm", "mlp_scale", "drop_path"), ("mlp",)),
    LSKBlock: Fused(FusedLSKBlock, ("mlp_norm", "mlp_scale", "drop_path"), ("mlp",)),
}
