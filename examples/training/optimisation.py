"""The optimiser, which parameters decay, and the learning rate of each step."""

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

# Parameters that say where something is, whatever their shape: weight decay would pull places together.
UNDECAYED_NAMES = frozenset({"relative_bias", "positions", "token"})


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for convolutions and matrices, none for norms, biases, scales, and what says where something is."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        spared = parameter.ndim <= 1 or name.rpartition(".")[2] in UNDECAYED_NAMES
        (undecayed if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def build_optimizer(name: str, model: nn.Module, weight_decay: float) -> Optimizer:
    """SGD with Nesterov momentum 0.9, or AdamW; the learning rate is set at each step."""
    groups = parameter_groups(model, weight_decay)
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    return AdamW(groups, lr=0.0)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_at(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to the peak, then a cosine to 0 at the end of training.

    >>> [round(learning_rate_at(step, 8, 4, 1.0), 3) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


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
