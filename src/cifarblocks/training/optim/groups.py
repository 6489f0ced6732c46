"""The optimiser, which parameters decay, and the learning rate of each step."""

import math
from collections.abc import Collection

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from cifarblocks.training.optim.muon import Muon
from cifarblocks.training.options.declared import MUON_SHARE

# Parameters that say where something is, whatever their shape: weight decay would pull places together.
UNDECAYED_NAMES = frozenset({"relative_bias", "positions", "token"})


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    orthogonal: Collection[str] = (),
    orthogonal_share: float = 1.0,
) -> list[dict[str, object]]:
    """Weight decay for convolutions and matrices, none for norms, biases, scales, and what says where something is.

    Args:
        model: the model.
        weight_decay: of what decays.
        layer_decay: the share of the learning rate at which a block learns, of that of the block after it; the stem
            stands before the first block, the head after the last (https://arxiv.org/abs/2106.08254).
        orthogonal: names of parameters that Muon moves; they have groups of their own.
        orthogonal_share: the share of the learning rate at which it moves them.

    Returns:
        Groups of an optimiser, each with the "scale" of its learning rate, and whether Muon moves it.
    """
    depths = block_depths(model) if layer_decay < 1 else {}
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {
        (weight_decay, 1.0, False): [],
        (0.0, 1.0, False): [],
    }
    for name, parameter in model.named_parameters():
        moved = name in orthogonal
        spared = moved or parameter.ndim <= 1 or name.rpartition(".")[2] in UNDECAYED_NAMES
        scale = layer_decay ** (deepest - depths.get(name, deepest)) * (orthogonal_share if moved else 1.0)
        groups.setdefault((0.0 if spared else weight_decay, scale, moved), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "scale": scale, "orthogonal": moved}
        for (decay, scale, moved), params in groups.items()
    ]


def filters_without_biases(model: nn.Module) -> list[str]:
    """Names of what Muon moves: filters over all channels, without a bias beside them, for as a rule a norm follows."""
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is None and layer.groups == 1
    ]


def block_depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter of a classifier lies: 0 in the stem, 1 in the first block, and so on to the head."""
    depths: dict[str, int] = {}
    blocks: list[str] = []
    for name, _ in model.named_parameters():
        part, *rest = name.split(".")
        block = ".".join([part, *rest[:2]]) if part == "stages" else part
        if part in ("stages", "head") and block not in blocks:
            blocks.append(block)
        depths[name] = len(blocks)
    return depths


def build_optimizer(
    name: str,
    model: nn.Module,
    weight_decay: float,
    eps: float | None = None,
    layer_decay: float = 1.0,
    muon_share: float = MUON_SHARE,
) -> Optimizer:
    """SGD with Nesterov momentum 0.9, that with Muon for filters, or AdamW; the learning rate is set at each step."""
    if name == "muon":
        filters = filters_without_biases(model)
        return Muon(parameter_groups(model, weight_decay, layer_decay, filters, muon_share), lr=0.0)
    groups = parameter_groups(model, weight_decay, layer_decay)
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    return AdamW(groups, lr=0.0, eps=1e-8 if eps is None else eps)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate, times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


def learning_rate_at(
    step: int, total_steps: int, warmup_steps: int, peak: float, final: float = 0.0, schedule: str = "cosine"
) -> float:
    """Linear warm-up to the peak, then a cosine to the final rate at the end of training, or the peak until then.

    >>> [round(learning_rate_at(step, 8, 4, 1.0), 3) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    share = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
    return final + (peak - final) * share


def peak_learning_rate(per_256_images: float, batch_size: int) -> float:
    """The linear rule: the learning rate grows with the global batch.

    >>> peak_learning_rate(0.2, 1024)
    0.8
    """
    return per_256_images * batch_size / 256


def supports_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: a GPU that has it, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
