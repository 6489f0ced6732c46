"""Small baselines: a multi-layer perceptron, a plain convolutional network and an LSTM over patches."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.checks import Size, height_and_width
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, FeatureInfo, FixedSize, Head, last_layer
from cifarblocks.models.vit import Positions, TokenMap, patch_grid, patch_tokens

__all__ = ["cnn", "mlp", "patch_lstm"]


class FlatHead(Head):
    """Flatten, hidden layer, ReLU, dropout, linear layer.

    Shape: (b, ...) of `features` numbers an image → (b, num_classes)
    """

    def __init__(self, features: int, hidden_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden_features), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(hidden_features, num_classes)

    def pre_logits(self, x: Tensor) -> Tensor:
        return self.dropout(self.hidden(x))


class LSTM(nn.Module):
    """Long short-term memory that reads the tokens in both directions: (b, n, channels) → (b, n, 2 · hidden_features).

    torch compiles it as a separate graph, so fullgraph=True fails.
    """

    def __init__(self, channels: int, hidden_features: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden_features, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # torch's bfloat16 LSTM fails on processors without bfloat16
            return self.lstm(x)[0]


class LastTokenHead(Head):
    """LayerNorm on the last token, hidden layer, GELU, dropout, linear layer: (b, n, channels) → (b, num_classes)."""

    def __init__(self, channels: int, hidden_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.hidden = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden_features), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(hidden_features, num_classes)

    def pre_logits(self, x: Tensor) -> Tensor:
        return self.dropout(self.hidden(x[:, -1]))


@dataclass(frozen=True, kw_only=True)
class NoBranchArguments(Arguments):
    """Arguments of networks without residual branches."""

    image_size: Annotated[Size, "Height and width of all images; the layout of the weights fixes it."] = 32
    drop_path: Annotated[float, "Must be 0: there are no residual branches to drop."] = 0.0


@registered_with(NoBranchArguments)
def mlp(given: NoBranchArguments) -> Classifier:
    """Two hidden layers of 512 and 256 on the flattened image; no maps, and images of one size."""
    refuse_drop_path("mlp", given.drop_path)
    height, width = height_and_width(given.image_size, "image_size")
    stem = nn.Sequential(
        FixedSize(given.image_size), nn.Flatten(), nn.Linear(given.in_channels * height * width, 512), nn.ReLU()
    )
    head = FlatHead(512, 256, given.num_classes, given.dropout)
    return Classifier(stem, [], head, [], num_features=512, in_channels=given.in_channels, image_size=given.image_size)


@registered_with(NoBranchArguments, dropout=0.5)
def cnn(given: NoBranchArguments) -> Classifier:
    """Three convolutions of 32, 64 and 128 channels, each halving the map, and a hidden layer of 512.

    Raises:
        ValueError: if `image_size` is below 8, where the map would vanish, or if `drop_path` is not 0.
    """
    refuse_drop_path("cnn", given.drop_path)
    height, width = height_and_width(given.image_size, "image_size")
    if min(height, width) < 8:
        raise ValueError(f"image_size must be at least 8 to be halved three times, got {height}x{width}")
    widths = (32, 64, 128)
    stages = [
        nn.Sequential(conv_norm(before, width, 3, activation=nn.ReLU, bias=True).append(nn.MaxPool2d(2)))
        for before, width in pairwise((given.in_channels, *widths))
    ]
    head = FlatHead(widths[-1] * (height // 8) * (width // 8), 512, given.num_classes, given.dropout)
    infos = [FeatureInfo(c, 2 ** (i + 1)) for i, c in enumerate(widths)]
    return Classifier(
        FixedSize(given.image_size), stages, head, infos, in_channels=given.in_channels, image_size=given.image_size
    )


@dataclass(frozen=True, kw_only=True)
class LSTMArguments(NoBranchArguments):
    """Arguments of `patch_lstm`."""

    dropout: Annotated[float, "Dropout rate before and in the LSTM, and before the last layer."] = 0.1


@registered_with(LSTMArguments)
def patch_lstm(given: LSTMArguments) -> Classifier:
    """Patches of 2 with position embeddings, read row by row in both directions by an LSTM of two layers of 256.

    Its map is the LSTM's output at each patch, and the head reads the last patch. There the backward direction of the
    second layer has read only one patch. So its recurrent weights, a fixed part of torch's LSTM, never learn.

    Raises:
        ValueError: if patches of 2 do not fill the images, or if `drop_path` is not 0.
    """
    refuse_drop_path("patch_lstm", given.drop_path)
    height, width = patch_grid(given.image_size, 2)
    stem = nn.Sequential(
        *patch_tokens(given.in_channels, 128, 2, given.image_size),
        Positions(height * width, 128),
        nn.Dropout(given.dropout),
    )
    return Classifier(
        stem,
        [nn.Sequential(LSTM(128, 256, 2, given.dropout))],
        LastTokenHead(512, 256, given.num_classes, given.dropout),
        [FeatureInfo(512, 2)],
        in_channels=given.in_channels,
        image_size=given.image_size,
        as_map=TokenMap(height, width),
    )


def refuse_drop_path(name: str, drop_path: float) -> None:
    """Refuse a drop path rate for a network without residual branches.

    Raises:
        ValueError: if `drop_path` is not 0.
    """
    if drop_path:
        raise ValueError(f"drop_path must be 0 for {name}, which has no residual branches to drop, got {drop_path}")
