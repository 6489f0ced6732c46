"""Two small networks to compare with: a multi-layer perceptron and a plain convolutional network."""

from torch import Tensor, nn

from cifarblocks.models.classifier import (
    Classifier,
    FeatureInfo,
    FixedSize,
    ImageSize,
    height_and_width,
    last_layer,
)
from cifarblocks.registry import register_model


class FlatHead(nn.Module):
    """Flatten, hidden layer, ReLU, dropout, linear layer.

    Shape: (b, ...) of `features` numbers an image → (b, num_classes)
    """

    def __init__(self, features: int, hidden_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden_features), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(hidden_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.hidden(x)))


@register_model
def mlp(
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> Classifier:
    """Two hidden layers of 512 and 256 on the flattened image; it has no maps and takes images of one size.

    Raises:
        ValueError: if `drop_path` is not 0: it has no residual branches to drop.
    """
    _refuse_drop_path("mlp", drop_path)
    height, width = height_and_width(image_size)
    stem = nn.Sequential(
        FixedSize(image_size), nn.Flatten(), nn.Linear(in_channels * height * width, 512), nn.ReLU(inplace=True)
    )
    head = FlatHead(512, 256, num_classes, dropout)
    return Classifier(stem, [], head, [], num_features=512, in_channels=in_channels, image_size=image_size)


@register_model
def cnn(
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    drop_path: float = 0.0,
    dropout: float = 0.5,
) -> Classifier:
    """Three convolutions of 32, 64 and 128 channels, each halving the map, and a hidden layer of 512.

    Raises:
        ValueError: if `image_size` is below 8, where the map would vanish, or if `drop_path` is not 0: it has no
            residual branches to drop.
    """
    _refuse_drop_path("cnn", drop_path)
    height, width = height_and_width(image_size)
    if min(height, width) < 8:
        raise ValueError(f"image_size must be at least 8 to be halved three times, got {height}x{width}")
    widths = (32, 64, 128)
    stages = []
    channels = in_channels
    for out_channels in widths:
        stages.append(nn.Sequential(_conv_pool(channels, out_channels)))
        channels = out_channels
    head = FlatHead(channels * (height // 8) * (width // 8), 512, num_classes, dropout)
    infos = [FeatureInfo(c, 2 ** (i + 1)) for i, c in enumerate(widths)]
    return Classifier(FixedSize(image_size), stages, head, infos, in_channels=in_channels, image_size=image_size)


def _conv_pool(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _refuse_drop_path(name: str, drop_path: float) -> None:
    if drop_path:
        raise ValueError(f"drop_path must be 0 for {name}, which has no residual branches to drop, got {drop_path}")
