"""Fit tensors to a model, all or none, and resize those of another image size."""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.registry import find_model, is_model

CLASSIFIER = "head.classifier."
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # each may take the place of another


def fitting(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    image_size: tuple[int, int] | None = None,
    *,
    new_classifier: bool = False,
    subject: str = "it",
    published: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Return tensors as the state dict of a model, resized if they were made for another image size.

    Args:
        model: The model, which may be on the meta device.
        tensors: The tensors by the model's names.
        image_size: Height and width of the images that they were made for. Default: guessed, see `grid`.
        new_classifier: Keep the model's own last layer.
        subject: Name of the tensors in error messages.
        published: Name of each tensor in error messages. Default: its own.

    Raises:
        ValueError: If a tensor is missing, left over, of another shape or kind of number, or not finite. The message
            names the first.
    """
    own, names = model.state_dict(), published or {}
    kept = {name for name in own | dict(tensors) if name.startswith(CLASSIFIER)} if new_classifier else set()
    if missing := [name for name in own if name not in tensors and name not in kept]:
        raise ValueError(f"{subject} lacks {some(missing)}")
    if extra := [names.get(name, name) for name in tensors if name not in own and name not in kept]:
        raise ValueError(f"{subject} has {some(extra)}, which the model does not have")
    given = {name: tensors[name] for name in own if name not in kept}
    for name, value in given.items():
        if problem := unusable(value, own[name]):
            raise ValueError(f"{subject} has {names.get(name, name)} {problem}")
    fitted = {name: resize(name, value, own[name], model, image_size) for name, value in given.items()}
    if misshapen := [name for name, value in fitted.items() if value.shape != own[name].shape]:
        first, hint = misshapen[0], ""
        theirs, ours = tuple(tensors[first].shape), tuple(own[first].shape)
        if first.startswith(CLASSIFIER):
            hint = "; new_classifier=True keeps the model's own"
        elif first == stem_filters(own) and theirs[:1] == ours[:1] and theirs[1:2] != ours[1:2]:
            hint = "; adapt_channels=True adapts the channels"
        elif first == stem_filters(own) and has_stems(model):
            hint = f"; stem={'imagenet' if theirs[2:] > ours[2:] else 'cifar'!r} of create_model builds that stem"
        several = some([names.get(name, name) for name in misshapen])
        raise ValueError(f"{subject} has {several} of shape {theirs}, the model has {ours}{hint}")
    return fitted | {name: own[name] for name in kept & own.keys()}


def has_stems(model: nn.Module) -> bool:
    """Return True for a classifier whose function has the argument `stem`."""
    name = getattr(model, "name", "")
    return is_model(name) and "stem" in signature(find_model(name)).parameters


def unusable(value: Tensor, own: Tensor) -> str | None:
    """Return why a tensor cannot replace a model's own; None if it can."""
    if value.dtype != own.dtype and (value.dtype not in FLOATING or own.dtype not in FLOATING):
        return f"of {value.dtype}, the model has {own.dtype}"
    finite = value.to(own.dtype).isfinite().all()  # a float64 number may overflow in float32
    return None if finite else f"with numbers that are not finite in {own.dtype}"


def resize(name: str, value: Tensor, own: Tensor, model: nn.Module, image_size: tuple[int, int] | None) -> Tensor:
    """Resize a tensor that depends on the image size, as its block would; return any other unchanged."""
    path, _, last = name.rpartition(".")
    if last == "positions" and value.ndim == own.ndim:
        return resize_positions(value, own, model, image_size)
    if value.shape == own.shape or value.ndim != own.ndim:
        return value
    if last == "relative_bias":
        return F.interpolate(value.unsqueeze(0), own.shape[1:], mode="bilinear", align_corners=False)[0]
    if last == "spectrum":
        return F.interpolate(value, own.shape[2:], mode="bilinear", align_corners=True)
    module = model.get_submodule(path)
    if name.startswith("stem.") and isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1):
        return resize_patches(value, own.shape[2:])
    return value


def resize_positions(positions: Tensor, own: Tensor, model: nn.Module, image_size: tuple[int, int] | None) -> Tensor:
    """Resize a vector for each token bicubically; the class token's stays."""
    classifier = cast("Any", model)
    stride = classifier.feature_info[0].stride
    here = tuple(length // stride for length in classifier.image_size)
    before = len(own) - math.prod(here)  # the class token's, if there is one
    places = len(positions) - before
    there = grid(places, here) if image_size is None else tuple(length // stride for length in image_size)
    if there == here or math.prod(there) != places:
        return positions
    maps = rearrange(positions[before:], "(h w) c -> 1 c h w", h=there[0])
    maps = F.interpolate(maps, here, mode="bicubic", align_corners=False)
    return torch.cat([positions[:before], rearrange(maps, "1 c h w -> (h w) c")])


def grid(places: int, own: Sequence[int]) -> tuple[int, ...]:
    """Guess the height and width of a map with a number of places: a square if possible, else the model's own map.

    >>> grid(196, (28, 7)), grid(15, (3, 5))
    ((14, 14), (3, 5))
    """
    side = math.isqrt(places)
    return (side, side) if side * side == places else tuple(own)


def resize_patches(weight: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a convolution of patches; its output on patches of one colour stays."""
    return math.prod(weight.shape[2:]) / math.prod(size) * F.interpolate(weight, tuple(size), mode="area")


def stem_filters(own: Mapping[str, Tensor]) -> str | None:
    """Return the name of the filters that see the image, the first ones; None if there is no convolution."""
    return next((name for name, value in own.items() if value.ndim == 4), None)


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Sum filters over their channels for one channel, else repeat them and keep their scale, as timm does.

    A tensor that is not filters is returned unchanged.
    """
    if weight.ndim != 4 or not weight.numel() or weight.dtype not in FLOATING:
        return weight
    before = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, math.ceil(in_channels / before), 1, 1)[:, :in_channels] * (before / in_channels)


def some(names: Sequence[str]) -> str:
    """Name the first and count the others.

    >>> some(["a", "b", "c"]), some([])
    ('a and 2 more', 'none')
    """
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "none"
