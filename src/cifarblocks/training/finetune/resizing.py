"""Weights of a network → the same network for other classes or another image size."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

CLASSIFIER = "head.classifier."


def load_resized(
    model: nn.Module, tensors: dict[str, Tensor], image_size: tuple[int, int], *, keep_classifier: bool
) -> None:
    """Load the weights of the same network, made for other classes or another image size: all of them or none.

    Args:
        model: the classifier to load them into; it takes their precision.
        tensors: the weights.
        image_size: height and width of the images that they were made for.
        keep_classifier: load the last layer too; else the model's own stays.

    Raises:
        ValueError: if a tensor is missing, left over or of another shape; the message names the first.
    """
    own = model.state_dict()
    kept = set() if keep_classifier else {name for name in own | tensors if name.startswith(CLASSIFIER)}
    for name in [name for name in tensors if name not in own and name not in kept]:
        raise ValueError(f"it has {name}, which the model has not")
    fitting = {}
    for name in [name for name in own if name not in kept]:
        if name not in tensors:
            raise ValueError(f"it lacks {name}")
        fitting[name] = resized(name, tensors[name], own[name], model, image_size)
        if fitting[name].shape != own[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the model has {tuple(own[name].shape)}"
            raise ValueError(f"it has {name} of shape {shapes}")
    model.to(next(iter(fitting.values())).dtype)
    model.load_state_dict({name: own[name] for name in kept & own.keys()} | fitting)


def resized(name: str, value: Tensor, own: Tensor, model: nn.Module, image_size: tuple[int, int]) -> Tensor:
    """A tensor that says where something is, in the shape of the model's own; any other as it is.

    Positions are resized bicubically, as `load_published` does; tables of relative positions and spectra bilinearly, as
    their blocks do on another map than their own.
    """
    last = name.rpartition(".")[2]
    if value.shape == own.shape or value.ndim != own.ndim:
        return value
    if last == "positions":
        classifier = cast("Any", model)
        stride = classifier.feature_info[0].stride
        there, here = ([length // stride for length in size] for size in (image_size, classifier.image_size))
        before = len(own) - here[0] * here[1]  # the class token's, where there is one
        maps = rearrange(value[before:], "(h w) c -> 1 c h w", h=there[0])
        maps = F.interpolate(maps, here, mode="bicubic", align_corners=False)
        return torch.cat([value[:before], rearrange(maps, "1 c h w -> (h w) c")])
    if last == "relative_bias":
        return F.interpolate(value.unsqueeze(0), own.shape[1:], mode="bilinear", align_corners=False)[0]
    if last == "spectrum":
        return F.interpolate(value, own.shape[2:], mode="bilinear", align_corners=True)
    return value
