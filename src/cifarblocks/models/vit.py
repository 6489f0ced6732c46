"""Vision Transformer: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, and DeiT's sizes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.checks import Size, height_and_width
from cifarblocks.blocks.transformer import PostNormBlock, TransformerBlock
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, FeatureInfo, FixedSize, Head, last_layer
from cifarblocks.models.initialise import initialise_vit
from cifarblocks.models.stages import drop_path_rates

__all__ = ["nano_vit", "vit_b_16", "vit_nano_cifar", "vit_tiny_16", "vit_tiny_cifar"]

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


@dataclass(frozen=True, kw_only=True)
class PatchArguments(Arguments):
    """Arguments of networks that take patches as tokens."""

    image_size: Annotated[Size, "Height and width of all images, which patches must fill."] = 32
    dropout: Annotated[float, "Dropout rate in the blocks, and after the position embeddings, if any."] = 0.0


def vit(
    given: PatchArguments,
    block: Callable[..., nn.Module],
    norm: Callable[[int], nn.Module],
    *,
    patch_size: int,
    width: int,
    depth: int,
) -> Classifier:
    """Build a network of patches, class token, position embeddings, encoder blocks, and a linear layer on the token.

    Args:
        given: the arguments of the classifier.
        block: called as block(channels, dropout=dropout, drop_path=rate), (b, n, c) → (b, n, c).
        norm: called as norm(channels) for the norm before the linear layer.
        patch_size: height and width of a patch.
        width: channels of each token.
        depth: number of blocks.

    Raises:
        ValueError: if patches of `patch_size` do not fill images of `image_size`.
    """
    height, width_in_patches = patch_grid(given.image_size, patch_size)
    stem = nn.Sequential(
        *patch_tokens(given.in_channels, width, patch_size, given.image_size),
        ClassToken(width),
        Positions(1 + height * width_in_patches, width),
        nn.Dropout(given.dropout),
    )
    (rates,) = drop_path_rates(given.drop_path, (depth,))
    return Classifier(
        stem,
        [nn.Sequential(*[block(width, dropout=given.dropout, drop_path=rate) for rate in rates])],
        ClassTokenHead(norm(width), width, given.num_classes),
        [FeatureInfo(width, patch_size)],
        in_channels=given.in_channels,
        image_size=given.image_size,
        as_map=TokenMap(height, width_in_patches),
        initialise_layer=initialise_vit,
    )


def patch_grid(image_size: Size, patch_size: int) -> tuple[int, int]:
    """Count the patches that fill an image downwards and across.

    Raises:
        ValueError: if they do not fill it.

    >>> patch_grid((32, 48), 16)
    (2, 3)
    """
    height, width = height_and_width(image_size, "image_size")
    if height % patch_size or width % patch_size:
        raise ValueError(f"image_size must be divisible by the patch size {patch_size}, got {height}x{width}")
    return height // patch_size, width // patch_size


def patch_tokens(in_channels: int, channels: int, patch_size: int, image_size: Size) -> nn.Sequential:
    """Each patch of an image → a token, row by row: (b, in_channels, h, w) → (b, h · w / patch_size², channels).

    Raises:
        ValueError: In `forward`, if the images are not of `image_size`.
    """
    return nn.Sequential(
        FixedSize(image_size), nn.Conv2d(in_channels, channels, patch_size, stride=patch_size), MapTokens()
    )


class MapTokens(nn.Module):
    """The positions of a map as tokens, row by row: (b, c, h, w) → (b, h · w, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c h w -> b (h w) c")


class ClassToken(nn.Module):
    """Put a learned token before the others: (b, n, c) → (b, 1 + n, c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the token to 0."""
        nn.init.zeros_(self.token)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.token.expand(x.shape[0], 1, -1), x), dim=1)


class Positions(nn.Module):
    """Add a learned vector to each token: (b, n, c) → (b, n, c)."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(tokens, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors from N(0, 0.02²)."""
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions


class TokenMap(nn.Module):
    """The last h · w tokens as a map, without the class token: (b, n, c) → (b, c, h, w)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x[:, -self.height * self.width :], "b (h w) c -> b c h w", h=self.height)


class ClassTokenHead(Head):
    """Norm and linear layer on the first token: (b, n, channels) → (b, num_classes)."""

    def __init__(self, norm: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.hidden_features = channels
        self.norm = norm
        self.classifier = last_layer(channels, num_classes)

    def pre_logits(self, x: Tensor) -> Tensor:
        return self.norm(x[:, 0])


layer_norm = partial(nn.LayerNorm, eps=1e-6)  # as in the authors' code


@registered_with(PatchArguments, image_size=224)
def vit_tiny_16(given: PatchArguments) -> Classifier:
    """ViT-Ti/16 (table 1 of DeiT, https://arxiv.org/abs/2012.12877): 12 blocks of width 192, 3 heads.

    >>> vit_tiny_16(image_size=(32, 48)).stem(torch.randn(2, 3, 32, 48)).shape
    torch.Size([2, 7, 192])
    """
    return vit(given, TransformerBlock, layer_norm, patch_size=16, width=192, depth=12)


@registered_with(PatchArguments, image_size=224)
def vit_b_16(given: PatchArguments) -> Classifier:
    """ViT-B/16 (table 1): 12 blocks of width 768, 12 heads."""
    return vit(given, TransformerBlock, layer_norm, patch_size=16, width=768, depth=12)


@registered_with(PatchArguments)
def vit_tiny_cifar(given: PatchArguments) -> Classifier:
    """ViT-Ti with patches of 4: a map of 8×8 and 365,124,864 multiply-adds at 32×32."""
    return vit(given, TransformerBlock, layer_norm, patch_size=4, width=192, depth=12)


@registered_with(PatchArguments)
def vit_nano_cifar(given: PatchArguments) -> Classifier:
    """The first half of `vit_tiny_cifar`, 6 blocks (not from a paper): 182,866,944 multiply-adds at 32×32."""
    return vit(given, TransformerBlock, layer_norm, patch_size=4, width=192, depth=6)


@registered_with(PatchArguments, dropout=0.1)
def nano_vit(given: PatchArguments) -> Classifier:
    """Patches of 2, 4 post-norm blocks of width 192 with 8 heads, MLPs of 384 with ReLU, as torch's encoder layer."""
    block = partial(PostNormBlock, head_channels=24, mlp_ratio=2)
    return vit(given, block, nn.LayerNorm, patch_size=2, width=192, depth=4)
