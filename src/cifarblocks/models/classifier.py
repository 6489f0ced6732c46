"""The skeleton that every classifier shares: stem → stages → head."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cifarblocks.blocks.checks import Size, height_and_width, require_int, require_number


class FeatureInfo(NamedTuple):
    """Channels and stride of one stage's map."""

    channels: int
    stride: int


class Stages(list[FeatureInfo]):
    """Channels and stride of several maps, in order, with timm's methods `channels` and `reduction`."""

    def channels(self, indices: Sequence[int] | None = None) -> list[int]:
        """Return the channels of some maps, by default of each.

        >>> Stages([FeatureInfo(16, 1), FeatureInfo(32, 2)]).channels()
        [16, 32]
        """
        return [self[index].channels for index in (range(len(self)) if indices is None else indices)]

    def reduction(self, indices: Sequence[int] | None = None) -> list[int]:
        """Return the strides of some maps, by default of each."""
        return [self[index].stride for index in (range(len(self)) if indices is None else indices)]


class Head(nn.Module):
    """Base of all heads, features → (b, num_classes); the last layer `classifier` takes `hidden_features`."""

    classifier: nn.Module
    hidden_features: int

    def pre_logits(self, x: Tensor) -> Tensor:
        """Features → (b, hidden_features), the input of the last layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pre_logits(x))


class Classifier(nn.Module):
    """An image classifier made from a stem, stages of blocks and a head.

    Args:
        stem: (b, in_channels, h, w) → the input of the first stage.
        stages: a sequence of blocks for each stage; none for a network that has no maps.
        head: features → (b, num_classes).
        feature_info: channels and stride of each stage's map, in order; empty for a network that has no maps.
        num_features: channels of the features; by default those of the last map.
        in_channels: channels of the images.
        image_size: height and width of the images the network is made for, or one number for both.
        as_map: a stage's output → its map, for networks whose stages output tokens.
        initialise_layer: draws the weights of one layer, for `Module.apply`; by default torch's own weights stay.

    Shape: (b, in_channels, h, w) → (b, num_classes)

    Raises:
        ValueError: if `in_channels` or `image_size` is below 1, or the last map would be smaller than one pixel.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Sequential],
        head: Head,
        feature_info: Sequence[FeatureInfo],
        *,
        num_features: int | None = None,
        in_channels: int = 3,
        image_size: Size = 32,
        as_map: nn.Module | None = None,
        initialise_layer: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.feature_info = Stages(feature_info)
        self.num_features = feature_info[-1].channels if num_features is None else num_features
        self.in_channels = in_channels
        self.image_size = height_and_width(image_size, "image_size")
        if feature_info and min(self.image_size) < feature_info[-1].stride:
            height, width = self.image_size
            stride = feature_info[-1].stride
            raise ValueError(f"image_size must be at least {stride}, the stride of the last map, got {height}x{width}")
        self.as_map = nn.Identity() if as_map is None else as_map
        self.gradient_checkpointing = False
        self.initialise_layer = initialise_layer
        self.name = ""  # set by `registered_with`
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights as in the network's paper; layers without a rule keep their weights.

        After `to_empty`, first call `reset_parameters()` of every module that has it.
        """
        # On the meta device there is nothing to draw. Drawing would import torch._dynamo: half as long as torch.
        if self.initialise_layer is not None and not any(parameter.is_meta for parameter in self.parameters()):
            self.apply(self.initialise_layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(b, in_channels, h, w) → the last stage's output, before any pooling."""
        x = self.stem(x)
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The output of `forward_features` → (b, num_classes) or, with `pre_logits`, the input of the last layer."""
        return self.head.pre_logits(features) if pre_logits else self.head(features)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """(b, in_channels, h, w) → the map of each stage, as `feature_info` says.

        Raises:
            ValueError: if the network has no maps.
        """
        if not self.feature_info:
            raise ValueError("this network has no feature maps: its stem flattens the image; use forward_features")
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = self._run(stage, x)
            maps.append(self.as_map(x))
        return maps

    def backbone(self, out_indices: Sequence[int] | None = None) -> "Backbone":
        """Return the part of this network that computes some maps, a `Backbone` with the same parameters."""
        return Backbone(self, out_indices)

    def extra_repr(self) -> str:
        return self.name

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a last layer."""
        return getattr(self.head.classifier, "out_features", 0)

    def get_classifier(self) -> nn.Module:
        """Return the last layer; `nn.Identity` for 0 classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one for `num_classes` classes; for 0 the head returns the features.

        Raises:
            ValueError: if `num_classes` is negative.
        """
        old = self.head.classifier
        reference = next(self.parameters())
        new = last_layer(self.head.hidden_features, num_classes)
        self.head.classifier = new.to(reference.device, reference.dtype).train(old.training)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only each block's input in training, and recompute the rest in the backward pass.

        Raises:
            ValueError: if the network has no stages of blocks.
        """
        if enabled and not self.stages:
            raise ValueError("gradient checkpointing needs stages of blocks, and this network has none")
        self.gradient_checkpointing = enabled

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Call `set_gradient_checkpointing`, under timm's name."""
        self.set_gradient_checkpointing(enable)

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage.children():
            contexts = partial(_first_and_second_pass, block)
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return x


class Backbone(nn.Module):
    """The stem and stages of a classifier up to the last requested map.

    Every parameter has a gradient, as DistributedDataParallel needs. Parameters have the classifier's names.

    Args:
        model: the classifier, whose parts are taken, not copied.
        out_indices: stages whose maps are returned; negative ones count from the end; by default all.

    Shape: (b, in_channels, h, w) → a list of (b, c, h / stride, w / stride), as `feature_info` says

    Raises:
        ValueError: if `model` has no maps, or `out_indices` does not name stages of it, each once.
    """

    def __init__(self, model: Classifier, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        count = len(model.feature_info)
        if not count:
            raise ValueError("this network has no feature maps: its stem flattens the image")
        self.out_indices = stage_indices(range(count) if out_indices is None else out_indices, count)
        self.stem = model.stem
        self.stages = model.stages[: max(self.out_indices) + 1]
        self.as_map = model.as_map
        self.feature_info = Stages(model.feature_info[index] for index in self.out_indices)
        self.in_channels = model.in_channels
        self.image_size = model.image_size

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return [self.as_map(outputs[index]) for index in self.out_indices]


def stage_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return the indices counted from the first of `count` stages.

    Raises:
        ValueError: if there are none, or they are not whole numbers, or out of range, or name a stage twice.

    >>> stage_indices((0, -1), 4)
    [0, 3]
    """
    whole = isinstance(indices, Sequence) and all(type(index) is int for index in indices)
    counted = [index + count if index < 0 else index for index in indices] if whole else []
    if not counted or len(set(counted)) < len(counted) or min(counted) < 0 or max(counted) >= count:
        raise ValueError(
            f"out_indices must name some of the {count} stages, each once, by whole numbers "
            f"from {-count} to {count - 1}, got {indices!r}"
        )
    return counted


def _first_and_second_pass(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics while a batch is computed again, so that it counts once."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone()  # type: ignore[union-attr]
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class PooledHead(Head):
    """Average over the map, dropout, linear layer.

    Args:
        channels: channels of the map.
        num_classes: number of classes; for 0 the head returns the input of the last layer.
        dropout: dropout rate before the last layer.
        before: module before the average, (b, channels, h, w) → (b, channels, h, w); by default there is none.
        after: module after the average, (b, channels) → (b, hidden_features); by default there is none.
        hidden_features: inputs of the last layer; by default `channels`.

    Shape: (b, channels, h, w) → (b, num_classes), any h and w.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        dropout: float = 0.0,
        *,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        hidden_features: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden_features = channels if hidden_features is None else hidden_features
        self.before = nn.Identity() if before is None else before
        self.after = nn.Identity() if after is None else after
        require_number(0, 1, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.classifier = last_layer(self.hidden_features, num_classes)

    def pre_logits(self, x: Tensor) -> Tensor:
        x = self.after(self.before(x).mean((2, 3)))
        return self.dropout(x)


class FixedSize(nn.Module):
    """Return images of one size unchanged, and refuse all others: the first part of a stem that needs a fixed size.

    Shape: (b, c, h, w) → (b, c, h, w)

    Raises:
        ValueError: in `forward`, if h and w are not those of `image_size`.
    """

    def __init__(self, image_size: Size) -> None:
        super().__init__()
        self.image_size = height_and_width(image_size, "image_size")

    def forward(self, x: Tensor) -> Tensor:
        return require_size(x, self.image_size)


@torch.fx.wrap  # a leaf for fx; its result is used, so that no pass removes it as dead code
def require_size(x: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the images, or raise ValueError if they are of another size."""
    if x.shape[-2:] != image_size:
        height, width = image_size
        raise ValueError(
            f"image_size is {height}x{width} and fixed in this network's parameters, "
            f"got images of {x.shape[-2]}x{x.shape[-1]}"
        )
    return x


def last_layer(features: int, num_classes: int) -> nn.Module:
    """A linear layer for `num_classes` classes, or the identity for 0."""
    require_int(0, num_classes=num_classes)
    return nn.Linear(features, num_classes) if num_classes else nn.Identity()
