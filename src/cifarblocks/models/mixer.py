"""MLP-Mixer: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601."""

from typing import Any

from torch import nn

from cifarblocks.blocks.mixer import MixerLayer
from cifarblocks.blocks.sizes import Size
from cifarblocks.models.arguments import Arguments
from cifarblocks.models.classifier import Classifier, FeatureInfo, PooledHead
from cifarblocks.models.initialise import initialise_mixer
from cifarblocks.models.stages import drop_path_rates
from cifarblocks.models.vit import TokenMap, patch_grid, patch_tokens
from cifarblocks.registry import register_model


def mlp_mixer(
    patch_size: int,
    width: int,
    token_hidden: int,
    channel_hidden: int,
    depth: int,
    /,
    **arguments: Any,
) -> Classifier:
    """Patches, one stage of Mixer layers, LayerNorm, average over the tokens, linear layer.

    Args:
        patch_size: height and width of a patch.
        width: channels of each token.
        token_hidden: width of the MLPs over the tokens.
        channel_hidden: width of the MLPs over the channels.
        depth: number of layers.
        arguments: those of `Arguments`; the MLPs over the tokens fix `image_size`, and `dropout` is in all MLPs.

    Raises:
        ValueError: if patches of `patch_size` do not fill images of `image_size`.
    """
    given = Arguments(**arguments)
    height, width_in_patches = patch_grid(given.image_size, patch_size)
    tokens = height * width_in_patches
    as_map = TokenMap(height, width_in_patches)
    (rates,) = drop_path_rates(given.drop_path, (depth,))
    layers = [
        MixerLayer(tokens, width, token_hidden, channel_hidden, dropout=given.dropout, drop_path=rate) for rate in rates
    ]
    return Classifier(
        patch_tokens(given.in_channels, width, patch_size, given.image_size),
        [nn.Sequential(*layers)],
        PooledHead(width, given.num_classes, before=nn.Sequential(nn.LayerNorm(width, eps=1e-6), as_map)),
        [FeatureInfo(width, patch_size)],
        in_channels=given.in_channels,
        image_size=given.image_size,
        as_map=as_map,
        initialise_layer=initialise_mixer,
    )


@register_model
def mlp_mixer_s16(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """Mixer-S/16 (table 1): 8 layers of width 512, MLPs of 256 over tokens and 2048 over channels.

    >>> mlp_mixer_s16(image_size=(32, 48)).stem(torch.randn(2, 3, 32, 48)).shape
    torch.Size([2, 6, 512])
    """
    return mlp_mixer(16, 512, 256, 2048, 8, image_size=image_size, **arguments)


@register_model
def mlp_mixer_b16(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """Mixer-B/16 (table 1): 12 layers of width 768, MLPs of 384 over tokens and 3072 over channels."""
    return mlp_mixer(16, 768, 384, 3072, 12, image_size=image_size, **arguments)


@register_model
def mlp_mixer_tiny(**arguments: Any) -> Classifier:
    """Patches of 4, 8 layers of width 128, MLPs of 256 over tokens and 512 over channels."""
    return mlp_mixer(4, 128, 256, 512, 8, **arguments)


@register_model
def mlp_mixer_cifar(**arguments: Any) -> Classifier:
    """Mixer-S at half its widths with patches of 4: a map of 8×8 and 302,801,920 multiply-adds at 32×32."""
    return mlp_mixer(4, 256, 128, 1024, 8, **arguments)
