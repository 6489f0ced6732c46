"""Exact multiply-adds of any module: convolutions, linear layers and matrix products, counted without computing."""

import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from cifarblocks.copying import copied, unwrapped


def count_macs(module: nn.Module, input_shape: Sequence[int] | None = None) -> int:
    """Count the multiply-adds of one forward pass in eval mode.

    One multiplication and one addition together are one multiply-add, so this is half the number of FLOPs.
    Normalisation, activations, pooling, element-wise products, `nn.Bilinear` and Fourier transforms are not counted.
    Hooks do not run, so a pruned or weight-normed layer counts as the plain layer.

    Args:
        module: Any module, also in DistributedDataParallel or DataParallel; it is not changed.
        input_shape: Whole shape of the input, batch included. Default: one image of the model's own channels and
            size, (1, module.in_channels, *module.image_size).

    Raises:
        ValueError: If `input_shape` is missing and the module has no `in_channels` and `image_size`.

    >>> count_macs(nn.Conv2d(3, 16, 3, padding=1), (1, 3, 32, 32)) == 16 * 3 * 3 * 3 * 32 * 32
    True
    """
    return _count(module, input_shape)["Global"]


def count_macs_of_parts(module: nn.Module, input_shape: Sequence[int] | None = None) -> dict[str, int]:
    """Count like `count_macs`, for each submodule with multiplications, by its path.

    >>> count_macs_of_parts(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (1, 4))
    {'0': 32, '2': 16}
    """
    counts = _count(module, input_shape)
    return {path.partition(".")[2]: macs for path, macs in counts.items() if "." in path}


def _product(first: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(first)  # torch counts a multiplication and an addition as two


def _product_and_sum(_: Any, first: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * math.prod(first)


aten = torch.ops.aten
# Products with a vector, which torch does not count: by the shape of their first factor.
WITH_A_VECTOR = {aten.mv: _product, aten.dot: _product, aten.vdot: _product, aten.addmv: _product_and_sum}


def _count(module: nn.Module, input_shape: Sequence[int] | None) -> dict[str, int]:
    """Return multiply-adds by the counter's own paths: "Global", and the class's name before the path inside."""
    from torch.utils.flop_counter import FlopCounterMode  # imported here, because the import takes 0.3 s

    module = unwrapped(module)
    if input_shape is None:
        channels, size = getattr(module, "in_channels", None), getattr(module, "image_size", None)
        if channels is None or size is None:
            raise ValueError(f"input_shape must be given for {type(module).__name__}, which has no image_size")
        input_shape = (1, channels, *size)
    twin = copied(module, keep_hooks=False).to("meta").eval()
    for part in twin.modules():  # `to` does not move plain attributes, such as the weight of a pruned layer
        vars(part).update({name: value.to("meta") for name, value in vars(part).items() if isinstance(value, Tensor)})
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.get_default_dtype())
    counter = FlopCounterMode(display=False, custom_mapping=WITH_A_VECTOR)
    before, after = torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
    with patch.dict(before, clear=True), patch.dict(after, clear=True), counter, torch.no_grad():  # they do not run
        twin(torch.empty(*input_shape, device="meta", dtype=dtype))
    counts = {path: sum(by_operation.values()) // 2 for path, by_operation in counter.get_flop_counts().items()}
    return {"Global": 0} | counts
