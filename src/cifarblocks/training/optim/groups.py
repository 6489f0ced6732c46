"""The optimizer and its groups of parameters, each with its weight decay and its share of the learning rate."""

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from cifarblocks.training.optim.muon import MUON_SHARES, Muon, MuonAdamW

# Parameters that encode positions, of any shape: weight decay would pull the positions together.
UNDECAYED_NAMES = frozenset({"relative_bias", "positions", "token"})


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    orthogonal: Collection[str] = (),
    orthogonal_share: float = 1.0,
) -> list[dict[str, object]]:
    """Group parameters: convolutions and matrices decay, norms, biases, scales and embeddings do not.

    Args:
        model: the model.
        weight_decay: weight decay of convolutions and matrices.
        layer_decay: learning rate of a block as a share of the next block's rate (https://arxiv.org/abs/2106.08254).
            The stem counts as the block before the first, the head as the block after the last.
        orthogonal: names of parameters that Muon updates; they have groups of their own.
        orthogonal_share: their share of the learning rate.

    Returns:
        Groups of an optimizer, each with the "scale" of its learning rate, and "orthogonal" for Muon.
    """
    depths = block_depths(model) if layer_decay < 1 else {}
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {
        (weight_decay, 1.0, False): [],
        (0.0, 1.0, False): [],
    }
    for name, parameter in model.named_parameters():
        moved = name in orthogonal
        spared = parameter.ndim <= 1 or name.rpartition(".")[2] in UNDECAYED_NAMES
        scale = layer_decay ** (deepest - depths.get(name, deepest)) * (orthogonal_share if moved else 1.0)
        groups.setdefault((0.0 if spared else weight_decay, scale, moved), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "scale": scale, "orthogonal": moved}
        for (decay, scale, moved), params in groups.items()
    ]


def filters_without_biases(model: nn.Module) -> list[str]:
    """Names of the parameters for Muon with SGD: filters over all channels without a bias, which a norm follows."""
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is None and layer.groups == 1
    ]


def hidden_matrices(model: nn.Module) -> list[str]:
    """Names of the parameters for Muon with AdamW: matrices and ungrouped filters between the stem and the head."""
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and getattr(layer, "groups", 1) == 1 and name.startswith("stages.")
    ]


def block_depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter: 0 in the stem, 1 in the first block, and so on to the head."""
    depths: dict[str, int] = {}
    blocks: list[str] = []
    for name, _ in model.named_parameters():
        part, *rest = name.split(".")
        block = ".".join([part, *rest[:2]]) if part == "stages" else part
        if part in ("stages", "head") and block not in blocks:
            blocks.append(block)
        depths[name] = len(blocks)
    return depths


# The parameters that Muon updates, with SGD and with AdamW for the others.
ORTHOGONAL = {"muon": filters_without_biases, "muon_adamw": hidden_matrices}


def build_optimizer(
    name: str,
    model: nn.Module,
    weight_decay: float,
    eps: float | None = None,
    layer_decay: float = 1.0,
    muon_share: float | None = None,
) -> Optimizer:
    """Build SGD with Nesterov momentum 0.9 or AdamW, each alone or with Muon; each step sets the learning rate."""
    orthogonal = ORTHOGONAL[name](model) if name in ORTHOGONAL else ()
    share = MUON_SHARES.get(name, 1.0) if muon_share is None else muon_share
    groups = parameter_groups(model, weight_decay, layer_decay, orthogonal, share)
    if name == "muon":
        return Muon(groups, lr=0.0)
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    return (MuonAdamW if orthogonal else AdamW)(groups, lr=0.0, eps=1e-8 if eps is None else eps)


def memory_names(optimizer: Optimizer, group: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of an optimizer's state for each parameter of a group."""
    if not isinstance(optimizer, AdamW):
        return ("momentum_buffer",)
    return ("momentum_buffer", "step") if group.get("orthogonal") else ("step", "exp_avg", "exp_avg_sq")
