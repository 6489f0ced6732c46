"""Load published weights of other libraries: names by tables, layouts by a few rules, all tensors or none."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.relative_attention import RelativeAttention
from cifarblocks.checkpoints import resizing
from cifarblocks.checkpoints.files import reading, unpickle
from cifarblocks.checkpoints.tables import TABLES, Table

WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DataParallel and torch.compile


def load_published(
    model: nn.Module,
    state_dict: Mapping[str, Tensor] | str | Path,
    source: str,
    *,
    new_classifier: bool = False,
    adapt_channels: bool = False,
) -> None:
    """Load the weights of the same network in another library, all of them or none.

    Position embeddings, relative position biases and patch filters are resized to the model's image and patch size.
    Position embeddings do not record the shape of their map. It is taken as square if their number is a square, else as
    the model's map. The prefixes of DataParallel and torch.compile are removed.

    Equal tensors do not imply equal networks: timm's `coatnet_0_224` has other strides and pools unless it is built as
    in docs/from_timm.md.

    Args:
        model: The classifier, as `create_model` returns it.
        state_dict: The other network's state dict, or a file of it: `.safetensors`, or one that `torch.load` reads.
        source: Library or repository of the weights: "timm", "torchvision", "chenyaofo" or "kuangliu".
        new_classifier: Keep the model's last layer, for other classes or none.
        adapt_channels: Adapt the stem's filters to the model's channels, as timm does: sum them for one channel, repeat
            and scale them for more.

    Raises:
        ValueError: If the model is on the meta device, the source is unknown, or the file cannot be read. If a tensor
            is missing, left over, given twice, of another shape or kind of number, or not finite in the model's type.
            The message names it, and nothing was loaded.
        TypeError: If `model` is not a module, or `state_dict` neither a mapping of names to tensors nor a path.

    >>> import cifarblocks
    >>> from torchvision.models import resnet18
    >>> model = cifarblocks.create_model("resnet_18", stem="imagenet", num_classes=10)
    >>> load_published(model, resnet18().state_dict(), "torchvision", new_classifier=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(value.is_meta for value in model.state_dict().values()):
        raise ValueError("model must have memory to load tensors into, got one on the meta device")
    if not isinstance(source, str) or source not in TABLES:
        raise ValueError(f"source must be one of {list(TABLES)}, got {source!r}")
    if isinstance(state_dict, str | Path):
        state_dict = read_published(Path(state_dict), source)
    check_mapping(state_dict)
    weights, own = unwrap(state_dict), model.state_dict()
    names = published_names(weights, own, source)
    if not names.keys() & own.keys():
        found = resizing.some(list(weights))
        raise ValueError(f"state_dict has no tensor of this network under the names of {source}, but {found}")
    tensors = {name: arrange(name, weights[theirs], model, own, source) for name, theirs in names.items()}
    if adapt_channels and (first := resizing.stem_filters(own)) in tensors:
        tensors[first] = resizing.adapt_channels(tensors[first], own[first].shape[1])
    model.load_state_dict(
        resizing.fitting(model, tensors, new_classifier=new_classifier, subject="state_dict", published=names)
    )


def read_published(path: Path, source: str) -> dict[str, Tensor]:
    """Read a state dict, without unpickling anything else.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    with reading(path, f"used as weights of {source}"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # not imported by the door

            return load_file(path)
        with path.open("rb") as file:
            tensors = unpickle(file)
        if not isinstance(tensors, dict):
            raise ValueError(f"it must hold a state dict, got {type(tensors).__name__}")
    return tensors


def check_mapping(state_dict: object) -> None:
    """Refuse anything but a mapping of names to tensors.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If it is empty, or has a key that is not a name or a value that is not a tensor.
    """
    if not isinstance(state_dict, Mapping):
        found = type(state_dict).__name__
        raise TypeError(f"state_dict must be a mapping of names to tensors or the path of a file, got {found}")
    if not state_dict:
        raise ValueError("state_dict must have tensors, got none")
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise ValueError(f"state_dict must have names as its keys, got {type(name).__name__}")
        if not isinstance(value, Tensor):
            found = f"{name!r} is a {type(value).__name__}"
            raise ValueError(f"expected only tensors in state_dict, but {found}: pass the state dict inside it")
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            raise ValueError(f"expected only plain tensors in state_dict, but {name!r} is sparse, quantised or meta")


def unwrap(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove the prefixes of wrappers from the names, if every name has them."""
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            return unwrap({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def published_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, str]:
    """Return a map from our names to the published names, by the table of the source that matches most of them.

    Raises:
        ValueError: If two published tensors have one of our names.
    """
    # timm stores the index of each relative bias table, which is computed here.
    indices = {name.removesuffix("bias_table") + "index" for name in weights if name.endswith("position_bias_table")}
    names = [name for name in weights if name not in indices]
    candidates = [[(rename(name, table), name) for name in names] for table in TABLES[source].values()]
    best = max(candidates, key=lambda pairs: len({ours for ours, _ in pairs} & own.keys()))
    found: dict[str, str] = {}
    for ours, theirs in best:
        if (first := found.setdefault(ours, theirs)) != theirs and ours in own:
            raise ValueError(f"state_dict must have {ours} once, got it as {first!r} and as {theirs!r}")
    return found


def rename(name: str, table: Table) -> str:
    """Return our name of a published tensor."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def arrange(name: str, value: Tensor, model: nn.Module, own: Mapping[str, Tensor], source: str) -> Tensor:
    """Return one tensor in our layout; unchanged if the model has no such tensor."""
    if name not in own:
        return value
    path, _, last = name.rpartition(".")
    ours = own[name]
    if last == "relative_bias" and value.ndim == 2:
        size = resizing.grid(len(value), ours.shape[1:])
        fits = value.shape == (math.prod(size), len(ours))
        return rearrange(value, "(h w) g -> g h w", h=size[0]) if fits else value
    if last == "positions" and value.ndim > 1:
        return value.flatten(0, -2)
    if [n for n in value.shape if n != 1] != [n for n in ours.shape if n != 1]:
        return value
    value = value.reshape(ours.shape)  # linear layers are 1×1 convolutions, (c, 1, 1) is (c)
    parent = model.get_submodule(path.rpartition(".")[0])
    if source == "timm" and isinstance(parent, RelativeAttention) and path.endswith(".qkv"):
        # timm has the query, key and value of each head together.
        return rearrange(value, "(g three c) ... -> (three g c) ...", g=parent.heads, three=3)
    return value
