"""Names of published tensors → ours: one table for each source and family."""

import re
from collections.abc import Callable

# Patterns and their replacements, applied in this order to the published name of a tensor.
Table = list[tuple[str, str | Callable[[re.Match[str]], str]]]


def parts(*lines: str) -> Table:
    """Parse "theirs ours" pairs of whole parts of names, separated by commas; `^` marks the beginning of a name.

    >>> [re.sub(*rule, "bn1.bn1.weight") for rule in parts("^bn1 stem.1, bn1 norm1")]
    ['stem.1.bn1.weight', 'bn1.norm1.weight']
    """
    table: Table = []
    for theirs, ours in (pair.split() for line in lines for pair in line.split(",")):
        start = "^" if theirs.startswith("^") else r"(?<=\.)"
        table.append((start + re.escape(theirs.lstrip("^")) + r"(?=\.|$)", ours))
    return table


def _after_transition(match: re.Match[str]) -> str:
    """Count blocks from the transition, which the first stage does not have."""
    stage, place = int(match[1]), int(match[2])
    return f"stages.{stage}.{place + (stage > 0)}."


def _torchvision_convnext_part(match: re.Match[str]) -> str:
    """Number stages: transitions and stages alternate there."""
    part, place = int(match[1]), int(match[2])
    return f"stages.{part // 2}.{place + (part > 1) if part % 2 else f'0.{place}'}."


LAYERS: Table = [(r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.")]
RESNET = [
    *LAYERS,
    *parts("^conv1 stem.0, ^bn1 stem.1, bn1 norm1, bn2 norm2, bn3 norm3"),
    *parts("downsample.0 shortcut.conv, downsample.1 shortcut.norm, ^fc head.classifier"),
]
KUANGLIU = [*RESNET, *parts("shortcut.0 shortcut.conv, shortcut.1 shortcut.norm, ^linear head.classifier")]

TABLES: dict[str, dict[str, Table]] = {
    "timm": {
        "ResNet": RESNET,
        "ConvNeXt": [
            (r"^stages\.(\d)\.downsample\.", r"stages.\1.0."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.", _after_transition),
            *parts("conv_dw depthwise, mlp.fc1 expand, mlp.fc2 project, gamma scale.gamma"),
            *parts("^head.norm head.after, ^head.fc head.classifier"),
        ],
        "GhostNet": [
            *parts("^conv_stem stem.0, ^bn1 stem.1, ^blocks.0.0 stages.0.0, ^conv_head head.after.0"),
            *parts("^blocks.9.0.conv head.before.0, ^blocks.9.0.bn1 head.before.1, ^classifier head.classifier"),
            # A strided block ends a stage there and begins the next stage here.
            (r"^blocks\.([1357])\.0\.", lambda match: f"stages.{(int(match[1]) + 1) // 2}.0."),
            (r"^blocks\.([2468])\.(\d)\.", lambda match: f"stages.{int(match[1]) // 2}.{int(match[2]) + 1}."),
            (r"\.shortcut\.(\d)\.", lambda match: f".shortcut.{int(match[1]) // 2}.{int(match[1]) % 2}."),
            *parts("ghost1 expand, ghost2 project, primary_conv primary, cheap_operation cheap"),
            *parts("conv_dw depthwise.0, bn_dw depthwise.1, se.conv_reduce gate.reduce, se.conv_expand gate.expand"),
        ],
        "ResNeSt": [
            (r"^conv1\.(\d)\.", lambda match: f"stem.{int(match[1]) // 3}.{int(match[1]) % 3}."),
            *LAYERS,
            *parts("^bn1 stem.2.1, conv2.conv attention.splits.0, conv2.bn0 attention.splits.1"),
            *parts("conv2.fc1 attention.reduce, conv2.bn1 attention.norm, conv2.fc2 attention.expand"),
            *parts("conv1 reduce.0, bn1 reduce.1, conv3 expand.0, bn3 expand.1"),
            *parts("downsample.1 shortcut.1.0, downsample.2 shortcut.1.1, ^fc head.classifier"),
        ],
        "CSPNet": [
            *parts("conv.weight 0.weight, bn 1, ^stem.conv1 stem"),
            (r"^stages\.(\d)\.", r"stages.\1.0."),
            *parts("conv_down down, conv_exp split, conv_transition_b branch_transition, conv_transition transition"),
            *parts("conv1 reduce, conv2 conv, conv3 expand, ^head.fc head.classifier"),
        ],
        "CoAtNet": [
            *parts("^stem.conv1 stem.0, ^stem.norm1 stem.1, ^stem.conv2 stem.3"),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"^(stages\.[01]\.\d+)\.norm1\.", r"\1.expand.1."),
            (r"^(stages\.[01]\.\d+)\.norm2\.", r"\1.depthwise.1."),
            (r"^(stages\.[23]\.\d+)\.norm1\.(norm\.)?", r"\1.attention_norm."),
            (r"^(stages\.[23]\.\d+)\.norm2\.", r"\1.mlp_norm."),
            *parts("shortcut.expand shortcut.1, pre_norm norm, conv1_1x1 expand.0, conv2_kxk depthwise.0"),
            *parts("se.fc1 gate.reduce, se.fc2 gate.expand, conv3_1x1 project"),
            *parts("attn.qkv attention.qkv, attn.rel_pos.relative_position_bias_table attention.relative_bias"),
            *parts("attn.proj attention.project, mlp.fc1 mlp.0, mlp.fc2 mlp.2"),
            *parts("^head.norm head.after.0, ^head.pre_logits.fc head.after.1, ^head.fc head.classifier"),
        ],
        "MLP-Mixer": parts(
            "^stem.proj stem.1, ^head head.classifier, ^norm head.before.0, ^blocks stages.0",
            "norm1 token_norm, mlp_tokens.fc1 token_mlp.0, mlp_tokens.fc2 token_mlp.3",
            "norm2 channel_norm, mlp_channels.fc1 channel_mlp.0, mlp_channels.fc2 channel_mlp.3",
        ),
        "ViT": parts(
            "^cls_token stem.3.token, ^pos_embed stem.4.positions, ^patch_embed.proj stem.1",
            "^head head.classifier, ^norm head.norm, ^blocks stages.0, norm1 attention_norm, attn.qkv attention.qkv",
            "attn.proj attention.project, norm2 mlp_norm, mlp.fc1 mlp.0, mlp.fc2 mlp.3",
        ),
    },
    "torchvision": {
        "ResNet": RESNET,
        "ConvNeXt": [
            *parts("^features.0 stem"),
            (r"^features\.(\d)\.(\d+)\.", _torchvision_convnext_part),
            *parts("block.0 depthwise, block.2 norm, block.3 expand, block.5 project, layer_scale scale.gamma"),
            *parts("^classifier.0 head.after, ^classifier.2 head.classifier"),
        ],
        "ViT": [
            *parts("^class_token stem.3.token, ^encoder.pos_embedding stem.4.positions, ^conv_proj stem.1"),
            *parts("^heads.head head.classifier, ^encoder.ln head.norm"),
            (r"^encoder\.layers\.encoder_layer_", "stages.0."),
            (r"\.self_attention\.in_proj_", ".attention.qkv."),
            *parts("ln_1 attention_norm, self_attention.out_proj attention.project, ln_2 mlp_norm"),
        ],
    },
    "chenyaofo": {"ResNet": RESNET},  # https://github.com/chenyaofo/pytorch-cifar-models
    "kuangliu": {"ResNet": KUANGLIU},  # https://github.com/kuangliu/pytorch-cifar
}
