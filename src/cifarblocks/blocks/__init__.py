"""The public blocks.

Every block raises TypeError for an argument of a wrong type, and ValueError for a bad number; both name the argument.
"""

from cifarblocks.blocks.attention import SelfAttention
from cifarblocks.blocks.basic import DropPath, LayerNorm2d, LayerScale
from cifarblocks.blocks.cbam import CBAM
from cifarblocks.blocks.convnext import GRN, ConvNeXtBlock
from cifarblocks.blocks.coordinate_attention import CoordinateAttention
from cifarblocks.blocks.csp import CSPBottleneck, CSPStage, DarknetBlock
from cifarblocks.blocks.eca import ECA
from cifarblocks.blocks.ghost import CopyModule, GhostBottleneck, GhostModule
from cifarblocks.blocks.global_context import GlobalContext
from cifarblocks.blocks.gnconv import GlobalLocalFilter, GnConv, HorNetBlock
from cifarblocks.blocks.lsk import LSKAttention, LSKBlock, LSKUnit
from cifarblocks.blocks.mbconv import InvertedResidual, LSKMBConv, MBConv
from cifarblocks.blocks.mixer import MixerLayer
from cifarblocks.blocks.msca import MSCA, MSCABlock, MSCAUnit
from cifarblocks.blocks.relative_attention import RelativeAttention, RelativeTransformerBlock
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PaddingShortcut, PreActBlock, ProjectionShortcut
from cifarblocks.blocks.se import SqueezeExcite
from cifarblocks.blocks.selective_kernel import SelectiveKernel
from cifarblocks.blocks.simam import SimAM
from cifarblocks.blocks.split_attention import ResNeStBottleneck, SplitAttention
from cifarblocks.blocks.transformer import PostNormBlock, TransformerBlock
from cifarblocks.blocks.triplet_attention import TripletAttention

__all__ = [
    "CBAM",
    "ECA",
    "GRN",
    "MSCA",
    "BasicBlock",
    "Bottleneck",
    "CSPBottleneck",
    "CSPStage",
    "ConvNeXtBlock",
    "CoordinateAttention",
    "CopyModule",
    "DarknetBlock",
    "DropPath",
    "GhostBottleneck",
    "GhostModule",
    "GlobalContext",
    "GlobalLocalFilter",
    "GnConv",
    "HorNetBlock",
    "InvertedResidual",
    "LSKAttention",
    "LSKBlock",
    "LSKMBConv",
    "LSKUnit",
    "LayerNorm2d",
    "LayerScale",
    "MBConv",
    "MSCABlock",
    "MSCAUnit",
    "MixerLayer",
    "PaddingShortcut",
    "PostNormBlock",
    "PreActBlock",
    "ProjectionShortcut",
    "RelativeAttention",
    "RelativeTransformerBlock",
    "ResNeStBottleneck",
    "SelectiveKernel",
    "SelfAttention",
    "SimAM",
    "SplitAttention",
    "SqueezeExcite",
    "TransformerBlock",
    "TripletAttention",
]
