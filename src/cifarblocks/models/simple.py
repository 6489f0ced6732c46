"""Small networks to compare with: a multi-layer perceptron, a plain convolutional network and an LSTM over patches."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.sizes import Size, height_and_width
from cifarblocks.models.classifier import Classifier, FeatureInfo, FixedSize, last_layer
from cifarblocks.models.vit import Positions, TokenMap, patch_grid, patch_tokens
from cifarblocks.registry import register_model


class FlatHead(nn.Module):
    """Flatten, hidden layer, ReLU, dropout, linear layer.

    Shape: (b, ...) of `features` numbers an image → (b, num_classes)
    """

    def __init__(self, features: int, hidden_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden_features), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(hidden_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.hidden(x)))


class LSTM(nn.Module):
    """Long short-term memory that reads the tokens in both directions: (b, n, channels) → (b, n, 2 · hidden_features).

    torch compiles it as a graph of its own, so not with fullgraph=True.
    """

    def __init__(self, channels: int, hidden_features: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden_features, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # torch's bfloat16 LSTM fails on processors without bfloat16
            return self.lstm(x)[0]


class LastTokenHead(nn.Module):
    """LayerNorm on the last token, hidden layer, GELU, dropout, linear layer: (b, n, channels) → (b, num_classes)."""

    def __init__(self, channels: int, hidden_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.hidden = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden_features), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(hidden_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.hidden(x[:, -1])))


@register_model
def mlp(
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: Size = 32,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> Classifier:
    """Two hidden layers of 512 and 256 on the flattened image; it has no maps and takes images of one size.

    Raises:
        ValueError: if `drop_path` is not 0: it has no residual branches to drop.
    """
    _refuse_drop_path("mlp", drop_path)
    height, width = height_and_width(image_size, "image_size")
    stem = nn.Sequential(FixedSize(image_size), nn.Flatten(), nn.Linear(in_channels * height * width, 512), nn.ReLU())
    head = FlatHead(512, 256, num_classes, dropout)
    return Classifier(stem, [], head, [], num_features=512, in_channels=in_channels, image_size=image_size)


@register_model
def cnn(
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: Size = 32,
    drop_path: float = 0.0,
    dropout: float = 0.5,
) -> Classifier:
    """Three convolutions of 32, 64 and 128 channels, each halving the map, and a hidden layer of 512.

    Raises:
        ValueError: if `image_size` is below 8, where the map would vanish, or if `drop_path` is not 0: it has no
            residual branches to drop.
    """
    _refuse_drop_path("cnn", drop_path)
    height, width = height_and_width(image_size, "image_size")
    if min(height, width) < 8:
        raise ValueError(f"image_size must be at least 8 to be halved three times, got {height}x{width}")
    widths = (32, 64, 128)
    stages = [
        nn.Sequential(conv_norm(before, width, 3, activation=nn.ReLU, bias=True).append(nn.MaxPool2d(2)))
        for before, width in pairwise((in_channels, *widths))
    ]
    head = FlatHead(widths[-1] * (height // 8) * (width // 8), 512, num_classes, dropout)
    infos = [FeatureInfo(c, 2 ** (i + 1)) for i, c in enumerate(widths)]
    return Classifier(FixedSize(image_size), stages, head, infos, in_channels=in_channels, image_size=image_size)


@register_model
def patch_lstm(
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: Size = 32,
    drop_path: float = 0.0,
    dropout: float = 0.1,
) -> Classifier:
    """Patches of 2 with positions, read row by row in both directions by an LSTM of two layers of 256.

    Its map is what the LSTM gives at each patch; the class is told from the last. There the backward direction of the
    second layer has read one patch alone, so that its recurrent weights, which are part of the layout, never learn.

    Raises:
        ValueError: if patches of 2 do not fill the images, or if `drop_path` is not 0: it has no residual branches to
            drop.
    """
    _refuse_drop_path("patch_lstm", drop_path)
    height, width = patch_grid(image_size, 2)
    stem = nn.Sequential(
        *patch_tokens(in_channels, 128, 2, image_size), Positions(height * width, 128), nn.Dropout(dropout)
    )
    return Classifier(
        stem,
        [nn.Sequential(LSTM(128, 256, 2, dropout))],
        LastTokenHead(512, 256, num_classes, dropout),
        [FeatureInfo(512, 2)],
        in_channels=in_channels,
        image_size=image_size,
        as_map=TokenMap(height, width),
    )


def _refuse_drop_path(name: str, drop_path: float) -> None:
    if drop_path:
        raise ValueError(f"drop_path must be 0 for {name}, which has no residual branches to drop, got {drop_path}")
