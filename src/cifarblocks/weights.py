"""Weights that timm and torchvision published → ours: names by tables, layouts by a few rules, nothing left over."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.relative_attention import RelativeAttention
from cifarblocks.models.classifier import Classifier

# A pattern and what stands in its place, applied in this order to the other library's name of a tensor.
Table = list[tuple[str, str | Callable[[re.Match[str]], str]]]


def _after_transition(match: re.Match[str]) -> str:
    """Blocks are counted from the transition, which the first stage does not have."""
    stage, place = int(match[1]), int(match[2])
    return f"stages.{stage}.{place + (stage > 0)}."


def _torchvision_convnext_part(match: re.Match[str]) -> str:
    """Transitions and stages alternate there."""
    part, place = int(match[1]), int(match[2])
    return f"stages.{part // 2}.{place + (part > 1) if part % 2 else f'0.{place}'}."


RESNET: Table = [
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "head.classifier."),
]

TABLES: dict[str, dict[str, Table]] = {
    "timm": {
        "ResNet": RESNET,
        "ConvNeXt": [
            (r"^stages\.(\d)\.downsample\.", r"stages.\1.0."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.", _after_transition),
            (r"\.conv_dw\.", ".depthwise."),
            (r"\.mlp\.fc1\.", ".expand."),
            (r"\.mlp\.fc2\.", ".project."),
            (r"\.gamma$", ".scale.gamma"),
            (r"^head\.norm\.", "head.after."),
            (r"^head\.fc\.", "head.classifier."),
        ],
        "GhostNet": [
            (r"^conv_stem\.", "stem.0."),
            (r"^bn1\.", "stem.1."),
            (r"^blocks\.9\.0\.conv\.", "head.before.0."),
            (r"^blocks\.9\.0\.bn1\.", "head.before.1."),
            (r"^blocks\.0\.0\.", "stages.0.0."),
            # A block that strides ends its stage there and begins one here, where that of the next begins with it.
            (r"^blocks\.([1357])\.0\.", lambda match: f"stages.{(int(match[1]) + 1) // 2}.0."),
            (r"^blocks\.([2468])\.(\d)\.", lambda match: f"stages.{int(match[1]) // 2}.{int(match[2]) + 1}."),
            (r"\.shortcut\.(\d)\.", lambda match: f".shortcut.{int(match[1]) // 2}.{int(match[1]) % 2}."),
            (r"\.ghost1\.", ".expand."),
            (r"\.ghost2\.", ".project."),
            (r"\.primary_conv\.", ".primary."),
            (r"\.cheap_operation\.", ".cheap."),
            (r"\.conv_dw\.", ".depthwise.0."),
            (r"\.bn_dw\.", ".depthwise.1."),
            (r"\.se\.conv_", ".gate."),
            (r"^conv_head\.", "head.after.0."),
            (r"^classifier\.", "head.classifier."),
        ],
        "ResNeSt": [
            (r"^conv1\.(\d)\.", lambda match: f"stem.{int(match[1]) // 3}.{int(match[1]) % 3}."),
            (r"^bn1\.", "stem.2.1."),
            (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
            (r"\.conv2\.conv\.", ".attention.splits.0."),
            (r"\.conv2\.bn0\.", ".attention.splits.1."),
            (r"\.conv2\.fc1\.", ".attention.reduce."),
            (r"\.conv2\.bn1\.", ".attention.norm."),
            (r"\.conv2\.fc2\.", ".attention.expand."),
            (r"\.conv1\.", ".reduce.0."),
            (r"\.bn1\.", ".reduce.1."),
            (r"\.conv3\.", ".expand.0."),
            (r"\.bn3\.", ".expand.1."),
            (r"\.downsample\.1\.", ".shortcut.1.0."),
            (r"\.downsample\.2\.", ".shortcut.1.1."),
            (r"^fc\.", "head.classifier."),
        ],
        "CSPNet": [
            (r"\.conv\.weight$", ".0.weight"),
            (r"\.bn\.", ".1."),
            (r"^stem\.conv1\.", "stem."),
            (r"^stages\.(\d)\.", r"stages.\1.0."),
            (r"\.conv_down\.", ".down."),
            (r"\.conv_exp\.", ".split."),
            (r"\.conv_transition_b\.", ".branch_transition."),
            (r"\.conv_transition\.", ".transition."),
            (r"\.conv1\.", ".reduce."),
            (r"\.conv2\.", ".conv."),
            (r"\.conv3\.", ".expand."),
            (r"^head\.fc\.", "head.classifier."),
        ],
        "CoAtNet": [
            (r"^stem\.conv1\.", "stem.0."),
            (r"^stem\.norm1\.", "stem.1."),
            (r"^stem\.conv2\.", "stem.3."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"\.shortcut\.expand\.", ".shortcut.1."),
            (r"\.pre_norm\.", ".norm."),
            (r"\.conv1_1x1\.", ".expand.0."),
            (r"^(stages\.[01]\.\d+)\.norm1\.", r"\1.expand.1."),
            (r"\.conv2_kxk\.", ".depthwise.0."),
            (r"^(stages\.[01]\.\d+)\.norm2\.", r"\1.depthwise.1."),
            (r"\.se\.fc1\.", ".gate.reduce."),
            (r"\.se\.fc2\.", ".gate.expand."),
            (r"\.conv3_1x1\.", ".project."),
            (r"^(stages\.[23]\.\d+)\.norm1\.(norm\.)?", r"\1.attention_norm."),
            (r"\.attn\.qkv\.", ".attention.qkv."),
            (r"\.attn\.rel_pos\.relative_position_bias_table$", ".attention.relative_bias"),
            (r"\.attn\.proj\.", ".attention.project."),
            (r"^(stages\.[23]\.\d+)\.norm2\.", r"\1.mlp_norm."),
            (r"\.mlp\.fc1\.", ".mlp.0."),
            (r"\.mlp\.fc2\.", ".mlp.2."),
            (r"^head\.norm\.", "head.after.0."),
            (r"^head\.pre_logits\.fc\.", "head.after.1."),
            (r"^head\.fc\.", "head.classifier."),
        ],
        "MLP-Mixer": [
            (r"^stem\.proj\.", "stem.1."),
            (r"^head\.", "head.classifier."),
            (r"^norm\.", "head.before.0."),
            (r"^blocks\.", "stages.0."),
            (r"\.norm1\.", ".token_norm."),
            (r"\.mlp_tokens\.fc1\.", ".token_mlp.0."),
            (r"\.mlp_tokens\.fc2\.", ".token_mlp.3."),
            (r"\.norm2\.", ".channel_norm."),
            (r"\.mlp_channels\.fc1\.", ".channel_mlp.0."),
            (r"\.mlp_channels\.fc2\.", ".channel_mlp.3."),
        ],
        "ViT": [
            (r"^cls_token$", "stem.3.token"),
            (r"^pos_embed$", "stem.4.positions"),
            (r"^patch_embed\.proj\.", "stem.1."),
            (r"^head\.", "head.classifier."),
            (r"^norm\.", "head.norm."),
            (r"^blocks\.", "stages.0."),
            (r"\.norm1\.", ".attention_norm."),
            (r"\.attn\.qkv\.", ".attention.qkv."),
            (r"\.attn\.proj\.", ".attention.project."),
            (r"\.norm2\.", ".mlp_norm."),
            (r"\.mlp\.fc1\.", ".mlp.0."),
            (r"\.mlp\.fc2\.", ".mlp.3."),
        ],
    },
    "torchvision": {
        "ResNet": RESNET,
        "ConvNeXt": [
            (r"^features\.0\.", "stem."),
            (r"^features\.(\d)\.(\d+)\.", _torchvision_convnext_part),
            (r"\.block\.0\.", ".depthwise."),
            (r"\.block\.2\.", ".norm."),
            (r"\.block\.3\.", ".expand."),
            (r"\.block\.5\.", ".project."),
            (r"\.layer_scale$", ".scale.gamma"),
            (r"^classifier\.0\.", "head.after."),
            (r"^classifier\.2\.", "head.classifier."),
        ],
        "ViT": [
            (r"^class_token$", "stem.3.token"),
            (r"^encoder\.pos_embedding$", "stem.4.positions"),
            (r"^conv_proj\.", "stem.1."),
            (r"^heads\.head\.", "head.classifier."),
            (r"^encoder\.ln\.", "head.norm."),
            (r"^encoder\.layers\.encoder_layer_", "stages.0."),
            (r"\.ln_1\.", ".attention_norm."),
            (r"\.self_attention\.in_proj_", ".attention.qkv."),
            (r"\.self_attention\.out_proj\.", ".attention.project."),
            (r"\.ln_2\.", ".mlp_norm."),
        ],
    },
}


def load_published(
    model: nn.Module, state_dict: Mapping[str, Tensor] | str | Path, source: str, *, new_classifier: bool = False
) -> None:
    """Load the weights of the same network in another library, all of them or none.

    Patches of the stem, positions and tables of relative positions that were made for images of another size are
    resized. They do not tell the shape of their map: if its number of places is a square, it is taken to be square,
    and otherwise to be as the model's.

    What has the same tensors is not always the same network: timm's `coatnet_0_224` strides and pools elsewhere unless
    it is built as docs/from_timm.md says.

    Args:
        model: the classifier to load them into, as `create_model` gives it.
        state_dict: the other network's, or a file of it, `.safetensors` or one that `torch.load` reads.
        source: the library that it comes from, "timm" or "torchvision".
        new_classifier: leave the last layer as it is, where the weights are for another number of classes or the model
            has none.

    Raises:
        ValueError: if the source is unknown, or a tensor is missing, left over or of another shape; the message names
            it, and nothing was loaded.

    >>> import cifarblocks
    >>> from torchvision.models import resnet18
    >>> model = cifarblocks.create_model("resnet_18", stem="imagenet", num_classes=10)
    >>> load_published(model, resnet18().state_dict(), "torchvision", new_classifier=True)
    """
    if source not in TABLES:
        raise ValueError(f"source must be one of {list(TABLES)}, got {source!r}")
    if not isinstance(state_dict, Mapping):
        state_dict = read_weights(Path(state_dict))
    if others := [name for name, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"state_dict must have tensors alone, but {others[0]!r} is none; is the state dict inside it?")
    own = model.state_dict()
    theirs = their_names(state_dict, own, source)
    if not theirs.keys() & own.keys():
        raise ValueError(
            f"state_dict has no tensor of this network under the names of {source}, but {some(list(state_dict))}"
        )
    kept = {name for name in own | theirs if name.startswith("head.classifier.")} if new_classifier else set()
    if missing := sorted(own.keys() - theirs.keys() - kept):
        raise ValueError(f"state_dict lacks {some(missing)}")
    if extra := [theirs[name] for name in theirs if name not in own and name not in kept]:
        raise ValueError(f"state_dict has {some(extra)}, which the model has not")
    published = {name: state_dict[their] for name, their in theirs.items() if name not in kept}
    fitting = {name: fit(name, value, cast(Classifier, model), source) for name, value in published.items()}
    if misshapen := [name for name, value in fitting.items() if value.shape != own[name].shape]:
        shapes = tuple(published[misshapen[0]].shape), tuple(own[misshapen[0]].shape)
        hint = "; new_classifier=True keeps the model's own" if misshapen[0].startswith("head.classifier.") else ""
        names = some([theirs[name] for name in misshapen])
        raise ValueError(f"state_dict has {names} of shape {shapes[0]}, the model has {shapes[1]}{hint}")
    model.load_state_dict({name: own[name] for name in kept & own.keys()} | fitting)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, without unpickling anything else."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # an extra, so only where it is used

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def their_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, str]:
    """Our name of each tensor → its name there, by that table of the source that finds most of them."""
    # An index of the places of a table is kept there, and computed here.
    indices = {
        re.sub("bias_table$", "index", name) for name in weights if name.endswith("relative_position_bias_table")
    }
    names = [name for name in weights if name not in indices]
    candidates = [{rename(name, table): name for name in names} for table in TABLES[source].values()]
    return max(candidates, key=lambda candidate: len(candidate.keys() & own.keys()))


def rename(name: str, table: Table) -> str:
    """Another library's name of a tensor → ours.

    >>> rename("layer2.0.bn1.weight", RESNET)
    'stages.1.0.norm1.weight'
    """
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def fit(name: str, value: Tensor, model: Classifier, source: str) -> Tensor:
    """One tensor in our layout and, where it was made for another image size, of our size."""
    path, _, last = name.rpartition(".")
    module, own = model.get_submodule(path), model.state_dict()[name]
    if last == "relative_bias":
        return fit_relative_bias(value, own)
    if last == "positions":
        return fit_positions(value.flatten(0, -2), model)
    parent = model.get_submodule(path.rpartition(".")[0])
    if source == "timm" and isinstance(parent, RelativeAttention) and path.endswith(".qkv"):
        if value.numel() != own.numel() or len(value) != len(own):
            return value
        # Each head there has its queries, keys and values together.
        return rearrange(value, "(g three c) ... -> (three g c) ...", g=parent.heads, three=3).view_as(own)
    if [n for n in value.shape if n != 1] == [n for n in own.shape if n != 1]:
        return value.reshape(own.shape)  # linear layers are 1×1 convolutions, (c, 1, 1) is (c)
    patches = isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1)
    if patches and name.startswith("stem.") and value.ndim == 4 and value.shape[:2] == own.shape[:2]:
        return fit_patches(value, own)
    return value


def fit_relative_bias(table: Tensor, own: Tensor) -> Tensor:
    """A table by places and heads → heads and the two directions, resized bilinearly if it was made for another map."""
    size = grid(len(table), own.shape[1:])
    if size is None or table.ndim != 2 or table.shape[1] != len(own):
        return table
    maps = rearrange(table, "(y x) g -> 1 g y x", y=size[0])
    return F.interpolate(maps, own.shape[1:], mode="bilinear", align_corners=False)[0]


def fit_positions(positions: Tensor, model: Classifier) -> Tensor:
    """A vector for each token, resized bicubically if they were made for another map, the class token's kept."""
    stride = model.feature_info[0].stride
    height, width = (length // stride for length in model.image_size)
    size = grid(len(positions) - 1, (height, width))
    if size is None:
        return positions
    maps = rearrange(positions[1:], "(y x) c -> 1 c y x", y=size[0])
    resized = F.interpolate(maps, (height, width), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], rearrange(resized, "1 c y x -> (y x) c")])


def grid(places: int, own: Sequence[int]) -> tuple[int, int] | None:
    """The map that so many places are of: a square if it can be, else the model's own; None if it is neither.

    >>> grid(196, (28, 7)), grid(15, (3, 5)), grid(16, (3, 5)), grid(15, (4, 5))
    ((14, 14), (3, 5), (4, 4), None)
    """
    side = math.isqrt(places)
    if side * side == places:
        return side, side
    return (own[0], own[1]) if places == own[0] * own[1] else None


def fit_patches(weight: Tensor, own: Tensor) -> Tensor:
    """A convolution of patches for patches of another size, giving what it gave on patches of one colour."""
    area = weight[0, 0].numel() / own[0, 0].numel()
    return area * F.interpolate(weight, own.shape[2:], mode="area")


def some(names: list[str]) -> str:
    """The first of them, and how many more there are.

    >>> some(["a", "b", "c"])
    'a and 2 more'
    """
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
