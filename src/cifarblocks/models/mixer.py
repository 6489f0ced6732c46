"""MLP-Mixer: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601."""

from torch import nn

from cifarblocks.blocks.mixer import MixerLayer
from cifarblocks.models.arguments import registered_with
from cifarblocks.models.classifier import Classifier, FeatureInfo, PooledHead
from cifarblocks.models.initialise import initialise_mixer
from cifarblocks.models.stages import drop_path_rates
from cifarblocks.models.vit import PatchArguments, TokenMap, patch_grid, patch_tokens

__all__ = ["mlp_mixer_b16", "mlp_mixer_cifar", "mlp_mixer_s16", "mlp_mixer_tiny"]


def mlp_mixer(
    given: PatchArguments, *, patch_size: int, width: int, token_hidden: int, channel_hidden: int, depth: int
) -> Classifier:
    """Patches, one stage of Mixer layers, LayerNorm, average over the tokens, linear layer.

    Args:
        given: the arguments of the classifier.
        patch_size: height and width of a patch.
        width: channels of each token.
        token_hidden: width of the MLPs over the tokens.
        channel_hidden: width of the MLPs over the channels.
        depth: number of layers.

    Raises:
        ValueError: if patches of `patch_size` do not fill images of `image_size`.
    """
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


@registered_with(PatchArguments, image_size=224)
def mlp_mixer_s16(given: PatchArguments) -> Classifier:
    """Mixer-S/16 (table 1): 8 layers of width 512, MLPs of 256 over tokens and 2048 over channels."""
    return mlp_mixer(given, patch_size=16, width=512, token_hidden=256, channel_hidden=2048, depth=8)


@registered_with(PatchArguments, image_size=224)
def mlp_mixer_b16(given: PatchArguments) -> Classifier:
    """Mixer-B/16 (table 1): 12 layers of width 768, MLPs of 384 over tokens and 3072 over channels."""
    return mlp_mixer(given, patch_size=16, width=768, token_hidden=384, channel_hidden=3072, depth=12)


@registered_with(PatchArguments)
def mlp_mixer_tiny(given: PatchArguments) -> Classifier:
    """Patches of 4, 8 layers of width 128, MLPs of 256 over tokens and 512 over channels."""
    return mlp_mixer(given, patch_size=4, width=128, token_hidden=256, channel_hidden=512, depth=8)


@registered_with(PatchArguments)
def mlp_mixer_cifar(given: PatchArguments) -> Classifier:
    """Mixer-S at half its widths with patches of 4: a map of 8×8 and 302,801,920 multiply-adds at 32×32."""
    return mlp_mixer(given, patch_size=4, width=256, token_hidden=128, channel_hidden=1024, depth=8)
