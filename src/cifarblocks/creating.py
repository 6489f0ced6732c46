"""Build classifiers by name, with first weights or with trained ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifarblocks.checkpoints.own import read_weights
from cifarblocks.checkpoints.resizing import adapt_channels, fitting, stem_filters
from cifarblocks.pretrained import find_weights, list_weights
from cifarblocks.registry import find_model, instantiate

log = logging.getLogger("cifarblocks")


def create_model(
    name: str,
    weights: str | Path | None = None,
    *,
    pretrained: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build the classifier of that name, or its backbone.

    With `weights`, every argument is that of the weights' card unless it is passed. Another `num_classes` draws a new
    last layer, another `in_channels` adapts the filters of the stem, and a line on stderr says which. Another
    `image_size` resizes what depends on it. The model is in training mode, as torch's are: call `eval()` to predict.

    Args:
        name: One of `list_models()`.
        weights: Trained weights: what `list_weights()` has after the dot, "default" for the first of them, or the path
            of a file that `cifarblocks train` wrote. Default: none, first weights are drawn.
        pretrained: True for `weights="default"`.
        features_only: Return the backbone, which gives a list of maps and has no head.
        out_indices: Stages whose maps the backbone gives, negative ones counted from the end. Default: all.
        device: Device that it is built on, "meta" included. Default: torch's default device.
        dtype: Floating-point type of its parameters and buffers. Default: torch's default type.
        arguments: `num_classes=100, in_channels=3, image_size=32, drop_path=0.0, dropout=0.0` and the model's own.

    Raises:
        ValueError: If the name or the weights are unknown; the message suggests near ones. If the weights do not fit
            the arguments. If `out_indices` does not name stages, or is given without `features_only`; if
            `features_only` is asked of a network that has no maps.
        TypeError: If the model has no such argument; the message suggests the nearest. If `weights` is neither a string
            nor a path.

    >>> create_model("eca_resnet_20", num_classes=10)(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> create_model("eca_resnet_20", weights="digits").num_features
    64
    >>> backbone = create_model("resnet_18", features_only=True, out_indices=(1, 3))
    >>> [tuple(x.shape) for x in backbone(torch.randn(2, 3, 32, 32))]
    [(2, 128, 16, 16), (2, 512, 4, 4)]
    """
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices needs features_only=True, got out_indices={out_indices!r} without it")
    find_model(name)
    if weights is None and not pretrained:
        model: Any = instantiate(name, device=device, dtype=dtype, **arguments)
    else:
        model = with_weights(name, "default" if weights is None else weights, device, dtype, arguments)
    return model.backbone(out_indices) if features_only else model


def with_weights(
    name: str,
    weights: str | Path,
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
    arguments: dict[str, Any],
) -> nn.Module:
    """Build a classifier with trained weights; see `create_model`."""
    path = path_of(name, weights)
    tensors, card = read_weights(path)
    if card.model != name:
        raise ValueError(f"weights must be of {name}, got {path}, which are of {card.model}")
    model: Any = instantiate(name, device=device, dtype=dtype, **card.arguments | arguments)
    own = model.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError(f"device must have memory to load weights into, got {device!r}")
    classes = arguments.get("num_classes", len(card.classes))
    new_classifier = classes != len(card.classes)
    if new_classifier:
        log.warning(f"{name}: a new last layer for {classes} classes; the weights have {len(card.classes)}")
    first = stem_filters(own)
    if first in tensors and tensors[first].shape[1] != own[first].shape[1]:
        before, after = tensors[first].shape[1], own[first].shape[1]
        log.warning(f"{name}: the filters of the stem adapted to {after} channels; the weights have {before}")
        tensors[first] = adapt_channels(tensors[first], after)
    subject = f"weights {str(weights)!r}"
    model.load_state_dict(fitting(model, tensors, card.image_size, new_classifier=new_classifier, subject=subject))
    return model


def path_of(name: str, weights: str | Path) -> Path:
    """Return the file of some weights of a model.

    Raises:
        TypeError: If they are neither a string nor a path.
        ValueError: If there are none of that name; the message says which there are.
    """
    if not isinstance(weights, str | Path):
        raise TypeError(f"weights must be a string or a path, got {weights!r}")
    names = list_weights(f"{name}.*")
    if isinstance(weights, Path) or str(weights).endswith(".safetensors"):
        return find_weights(weights)
    wanted = names[0] if weights == "default" and names else f"{name}.{weights}"
    if wanted not in names:
        known = ", ".join(repr(each.removeprefix(f"{name}.")) for each in names) or "none"
        raise ValueError(f"weights must be those of list_weights() or a file, got {weights!r}; {name} has {known}")
    return find_weights(wanted)
