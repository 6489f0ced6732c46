"""Record a run of a block as a graph of what it computes, as a person would draw it.

The block runs once, in training mode, on the example of its docstring, while its layers and its tensor operations are
recorded. What only rearranges, or returns its input, is left out; a norm or an activation stands in the box of what it
follows.
"""

import doctest
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from cifarblocks import blocks

# What people call operations and layers; any other has its own name.
LABELS = {
    "AvgPool2d": "average pool",
    "BatchNorm2d": "BatchNorm",
    "Hardsigmoid": "hard σ",
    "Hardswish": "hard swish",
    "LeakyReLU": "leaky ReLU",
    "Linear": "linear",
    "MaxPool2d": "max pool",
    "Sigmoid": "σ",
    "add": "+",
    "amax": "max",
    "cat": "concat",
    "chunk": "split",
    "div": "÷",
    "fft_irfft2": "inverse Fourier",
    "fft_rfft2": "Fourier",
    "layer_norm": "LayerNorm",
    "linalg_vector_norm": "norm",
    "mul": "×",
    "pad": "pad with zeros",
    "scaled_dot_product_attention": "softmax(q · k) v",
    "sigmoid": "σ",
    "stack": "interleave",
    "sub": "−",
}
REARRANGE = {"__getitem__", "complex", "contiguous", "flatten", "flip", "interpolate", "permute", "reshape", "to"}
REARRANGE |= {"unbind", "unfold", "unsqueeze"}
CONSTANTS = {"new_ones"}  # operations that take only the shape and dtype of their input
RANDOM = {"dropout"}  # operations that need no input
WRITTEN_OUT = {"addcmul": lambda total, a, b: total + a * b}  # several operations in one
ARITHMETIC = {"+", "−", "×", "÷"}
REDUCTIONS = {"mean", "max", "norm"}
FOLLOWERS = {"BatchNorm", "LayerNorm", "LayerNorm2d"} | {"GELU", "ReLU", "ReLU6", "SiLU", "leaky ReLU"}
FOLLOWERS |= {"σ", "hard σ", "hard swish", "softmax", "transpose"}
AXES = {3: "bnc", 4: "bchw"}


@dataclass(eq=False)
class Node:
    """One box: the layers or operations in it, a line each, and the boxes that feed it."""

    kind: str  # "end", "parameter", "layer", "operation" or "join"
    lines: list[str]
    sources: list["Node"] = field(default_factory=list)


def record(block: type[nn.Module]) -> list[Node]:
    """The boxes of a block, each after those that feed it, the output last."""
    module, x = example(block)
    recorder = Recorder(module, x)
    entering = register_module_forward_pre_hook(recorder.enter)
    leaving = register_module_forward_hook(recorder.leave)
    with torch.no_grad(), entering, leaving, recorder:
        y = module.train()(x)
    return tidy(Node("end", ["y"], recorder.sources(y)))


def example(block: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """The module and the input of the first call in a block's docstring."""
    calls: list[tuple[nn.Module, Tensor]] = []
    names = {**vars(sys.modules[block.__module__]), "torch": torch}
    with register_module_forward_pre_hook(lambda module, args: calls.append((module, args[0]))):
        for line in doctest.DocTestParser().get_examples(block.__doc__ or ""):
            exec(line.source, names)
    for module, x in calls:
        if type(module) is block:
            return module, x
    raise ValueError(f"{block.__name__}: its docstring has no example that calls it")


class Recorder(TorchFunctionMode):
    """Makes a node of every layer and every operation between `x` and the output of `root`."""

    def __init__(self, root: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.root = root
        self.depth = 0  # of layers that are running: what they do inside is not recorded
        self.made_by: dict[int, tuple[Tensor, Node]] = {}  # the tensor is kept, so that no other takes its id
        self.remember(x, Node("end", ["x"]))
        for name, parameter in root.named_parameters():
            self.remember(parameter, Node("parameter", [name]))

    def remember(self, y: Any, node: Node) -> None:
        self.made_by |= {id(tensor): (tensor, node) for tensor in tensors(y)}

    def sources(self, inputs: Any) -> list[Node]:
        return unique(self.made_by[id(tensor)][1] for tensor in tensors(inputs) if id(tensor) in self.made_by)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.__name__
        if name in WRITTEN_OUT and not self.depth:
            with self:
                return WRITTEN_OUT[name](*args)
        sources = [] if name in CONSTANTS else self.sources((args, kwargs))
        y = function(*args, **kwargs)
        if not self.depth and tensors(y) and (sources or name in RANDOM):
            label = operation(name, args, kwargs, y)
            kind = "join" if label in ARITHMETIC else "operation"
            self.remember(y, Node(kind, [label], sources) if label else sources[0])
        return y

    def enter(self, module: nn.Module, _: Any) -> None:
        self.depth += self.is_layer(module)

    def leave(self, module: nn.Module, args: Any, y: Any) -> None:
        self.depth -= self.is_layer(module)
        if self.is_layer(module) and not self.depth and id(y) not in self.made_by:  # not returned as it came
            kind = "layer" if any(True for _ in module.parameters()) else "operation"
            self.remember(y, Node(kind, [layer(module)], self.sources(args)))

    def is_layer(self, module: nn.Module) -> bool:
        return module is not self.root and not isinstance(module, nn.Sequential)


def operation(name: str, args: Any, kwargs: Any, y: Any) -> str:
    """Name an operation; return nothing if it only rearranges."""
    if name == "avg_pool2d" and args[1] == 1:  # a pool of one pixel
        return f"stride {args[2]}"
    if name == "permute" and y.ndim == 3 and y.stride(0) == args[0].stride(0):
        return "transpose"
    if name in REARRANGE:
        return ""
    if name == "dropout":
        return f"random 0 or {1 / (1 - kwargs['p']):.3g}"
    label = LABELS.get(name, name)
    if label in ARITHMETIC and not isinstance(args[1], Tensor):
        return f"{label} {args[1]:.3g}"
    if label in REDUCTIONS:
        dims = kwargs["dim"] if "dim" in kwargs else args[1]
        axes = [AXES[args[0].ndim][dim] for dim in (dims if isinstance(dims, tuple) else (dims,))]
        return f"{label} over {', '.join(axes)}"
    return label


def layer(module: nn.Module) -> str:
    """Name a layer: "3×3 depthwise, 8 → 16, stride 2"."""
    name = type(module).__name__
    details = []
    if isinstance(module, nn.Linear):
        details = [f"{module.in_features} → {module.out_features}"]
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        name = "depthwise" if module.groups == module.in_channels > 1 else "conv"
        details += [f"{module.in_channels} → {module.out_channels}"] * (module.in_channels != module.out_channels)
        details += [f"{module.groups} groups"] * (name == "conv" and module.groups > 1)
        details += [f"dilation {module.dilation[0]}"] * (module.dilation[0] > 1)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride = both(module.kernel_size), both(module.stride)
        name = f"{'×'.join(map(str, kernel))}{'-wide' * (len(kernel) == 1)} {LABELS.get(name, name)}"
        details += [f"stride {stride[0]}"] * (stride[0] > 1)
    name = LABELS.get(name, name if name in blocks.__all__ else re.sub(r"\dd$", "", name))
    return ", ".join([name, *details])


def both(size: Any) -> tuple[int, ...]:
    """One number stands for two."""
    return size if isinstance(size, tuple) else (size, size)


def tensors(values: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        return tensors(list(values.values()))
    return [tensor for value in values for tensor in tensors(value)] if isinstance(values, tuple | list) else []


def unique(nodes: Iterable[Node]) -> list[Node]:
    """Each once, in their order."""
    return list(dict.fromkeys(nodes))


def tidy(output: Node) -> list[Node]:
    """Put followers in the box of what they follow and sums of sums in one, and leave out what leads nowhere."""
    uses = Counter(source for node in upstream(output) for source in node.sources)
    stands_in: dict[Node, Node] = {}
    for node in upstream(output):
        node.sources = unique(stands_in.get(source, source) for source in node.sources)
        first = node.sources[0] if node.sources else node
        if follows(node) and uses[first] == 1 and first.kind in ("layer", "operation"):
            first.lines += node.lines
            stands_in[node], uses[first] = first, uses[node]
        elif node.kind == "join":
            node.sources = unique(
                deeper
                for source in node.sources
                for deeper in (source.sources if source.lines == node.lines and uses[source] == 1 else [source])
            )
    return upstream(output)


def follows(node: Node) -> bool:
    """Return True if it may stand in the box of its source: a norm, an activation, arithmetic with a number."""
    scalar = node.kind == "operation" and node.lines[0][0] in ARITHMETIC
    return len(node.sources) == 1 and (scalar or node.lines[0] in FOLLOWERS)


def upstream(output: Node) -> list[Node]:
    """All that leads to a node, each after its sources, and the node itself."""
    found: dict[Node, None] = {}

    def visit(node: Node) -> None:
        for source in node.sources:
            if source not in found:
                visit(source)
        found[node] = None

    visit(output)
    return list(found)
