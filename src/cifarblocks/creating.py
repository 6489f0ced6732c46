"""Build classifiers by name, with random weights or with trained ones."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifarblocks.checkpoints.own import read_weights
from cifarblocks.checkpoints.resizing import adapt_channels, fitting, stem_filters
from cifarblocks.pretrained import default_weights, find_weights, list_weights, package_file
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
    """Build a classifier by its name, or its backbone.

    With `weights`, each argument that you do not pass comes from the card of the weights. Another `num_classes` draws a
    new last layer, and another `in_channels` adapts the filters of the stem; a line on stderr reports each. Another
    `image_size` resizes the tensors that depend on it. The model is in training mode: call `eval()` to predict.

    Args:
        name: One of `list_models()`.
        weights: Trained weights: a name of `list_weights()`, whole or only the part after the dot; "default"; or the
            path of a file or run folder of `cifarblocks train`. Default: none, the weights are drawn at random.
        pretrained: True for `weights="default"`.
        features_only: Return the backbone, which returns a list of maps and has no head.
        out_indices: Stages whose maps the backbone returns; negative ones count from the end. Default: all.
        device: Device to build it on, also "meta". Default: torch's default device.
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
        chosen = "default" if weights is None else weights
        model = with_weights(name, chosen, device, dtype, arguments, told=not features_only)
    if not features_only:
        return model
    if not hasattr(model, "backbone"):
        raise ValueError(
            f"features_only is for models with backbone(out_indices), and {name} is a {type(model).__name__}"
        )
    return model.backbone(out_indices)


def with_weights(
    name: str,
    weights: str | Path,
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
    arguments: dict[str, Any],
    *,
    told: bool,
) -> nn.Module:
    """Build a classifier with trained weights; see `create_model`. With `told`, stderr reports a new last layer."""
    path = path_of(name, weights)
    tensors, card = read_weights(path)
    if card.model != name:
        raise ValueError(f"weights must be of {name}, got {path}, which are of {card.model}")
    model: Any = instantiate(name, device=device, dtype=dtype, **card.arguments | arguments)
    own = model.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError("device must have memory to load weights into, got 'meta'")
    classes = arguments.get("num_classes", len(card.classes))
    new_classifier = classes != len(card.classes)
    if new_classifier and classes and told:
        log.warning(f"{name}: a new last layer for {classes} classes; the weights have {len(card.classes)}")
    first = stem_filters(own)
    if first in tensors and tensors[first].shape[1] != own[first].shape[1]:
        before, after = tensors[first].shape[1], own[first].shape[1]
        log.warning(
            f"{name}: the filters of the stem adapted to {after} channel{'s' * (after != 1)}; the weights have {before}"
        )
        tensors[first] = adapt_channels(tensors[first], after)
    own_values = [f"{each}={value!r}" for each, value in card.arguments.items() if arguments.get(each, value) != value]
    subject = f"weights {str(weights)!r}" + (f" of {name} with {' and '.join(own_values)}" if own_values else "")
    model.load_state_dict(fitting(model, tensors, card.image_size, new_classifier=new_classifier, subject=subject))
    return model


def path_of(name: str, weights: str | Path) -> Path:
    """Return the file of a model's weights; a name of the package wins over a path.

    Raises:
        TypeError: If they are neither a string nor a path.
        ValueError: If there are none of that name; the message lists the names.
    """
    if not isinstance(weights, str | Path):
        hint = "; did you mean pretrained=True?" if isinstance(weights, bool) else ""
        raise TypeError(f"weights must be a string or a path, got {weights!r}{hint}")
    known = list_weights(f"{name}.*")
    if weights == "default" and not known:
        raise ValueError(f"{name} has no trained weights; the package has {', '.join(list_weights())}")
    wanted = default_weights(known) if weights == "default" else str(weights)
    for full in (wanted, f"{name}.{wanted}"):
        if full in known and isinstance(weights, str):
            return package_file(full)
    if os.path.lexists(os.path.expanduser(weights)):
        return find_weights(weights)
    has = f"has {', '.join(repr(each.removeprefix(f'{name}.')) for each in known)}" if known else "has none"
    raise ValueError(f"weights must be trained weights of {name}, which {has}, or a file, got {str(weights)!r}")
