"""Multiply-adds of models by fvcore, with handlers for what fvcore skips or rounds, beside those of count_macs.

    python benchmarks/macs.py               # a line for every model: about a minute; writes benchmarks/results/macs.md
    python benchmarks/macs.py resnet_20     # fvcore's table of that model, module by module

One multiplication with its addition counts 1 (many call this a FLOP, others call it two). fvcore as installed counts
nothing for fused attention and LSTMs, rounds einsum, and adds rough numbers for normalisation and pooling; here the
first three are exact, and the last are set to 0, as in the papers' tables. Fourier transforms count 0 in every column.
"""

import sys
from math import prod
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis, flop_count_table
from measuring import RESULTS, typed
from torch import Tensor, nn

import cifarblocks

UNCOUNTED = [
    "aten::adaptive_avg_pool2d",
    "aten::batch_norm",
    "aten::group_norm",
    "aten::instance_norm",
    "aten::layer_norm",
    "aten::upsample_bilinear2d",
]


def nothing(_: list[Any], __: list[Any]) -> int:
    """Return the networks that are not counted."""
    return 0


def shape(value: Any) -> list[int]:
    """Sizes of a tensor in a traced graph."""
    return value.type().sizes()


def attention_macs(inputs: list[Any], _: list[Any]) -> int:
    """Scaled dot product attention: query · key for each pair of tokens, then the weighted sum of values."""
    query, key, value = map(shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def einsum_macs(inputs: list[Any], _: list[Any]) -> int:
    """Two operands at a time from the left: one multiply-add for each choice of all their indices."""
    operands, _, result = inputs[0].toIValue().replace(" ", "").partition("->")
    terms, sizes = operands.split(","), list(map(shape, inputs[1].node().inputs()))
    length = {index: size for term, of in zip(terms, sizes, strict=True) for index, size in zip(term, of, strict=True)}
    held, total = set(terms[0]), 0
    for place, term in enumerate(terms[1:], start=2):
        total += prod(length[index] for index in held | set(term))
        held = (held | set(term)) & set(result).union(*terms[place:])
    return total


def lstm_macs(inputs: list[Any], _: list[Any]) -> int:
    """Each weight matrix of each layer and direction once for each token."""
    weights = [shape(weight) for weight in inputs[2].node().inputs()]
    return prod(shape(inputs[0])[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def as_installed(module: nn.Module, x: Tensor) -> FlopCountAnalysis:
    """The analysis by fvcore of a module in eval mode."""
    counted = FlopCountAnalysis(module.eval(), x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counted.tracer_warnings("none")


def exact(module: nn.Module, x: Tensor) -> FlopCountAnalysis:
    """The same, exact for fused attention, einsum and LSTMs, and without normalisation and pooling."""
    handlers = {"scaled_dot_product_attention": attention_macs, "einsum": einsum_macs, "lstm": lstm_macs}
    counted = as_installed(module, x).set_op_handle(**dict.fromkeys(UNCOUNTED, nothing))
    return counted.set_op_handle(**{f"aten::{name}": handler for name, handler in handlers.items()})


def image_of(model: Any) -> Tensor:
    """One image of the model's own channels and size."""
    return torch.randn(1, model.in_channels, *model.image_size)


def line(name: str) -> str:
    """One model as a line of the table."""
    model: Any = cifarblocks.create_model(name)
    x = image_of(model)
    numbers = [sum(p.numel() for p in model.parameters()), cifarblocks.count_macs(model)]
    numbers += [int(exact(model, x).total()), int(as_installed(model, x).total())]
    size = "×".join(map(str, model.image_size))
    return f"| {name} | {size} | {' | '.join(f'{number:,}' for number in numbers)} |"


def main(names: list[str]) -> int:
    """Print fvcore's table of one model, or the line of each, which is also written."""
    try:
        models = [cifarblocks.create_model(name) for name in names]
    except ValueError as error:
        print(f"macs.py: error: {error}", file=sys.stderr)
        return 2
    for model in models:
        print("One multiply-add counts 1.")
        print(flop_count_table(exact(model, image_of(model))))
    if not names:
        text = "\n".join([HEAD, *map(line, cifarblocks.list_models()), ""])
        print(text)
        (RESULTS / "macs.md").write_text(text)
    return 0


HEAD = f"""# Multiply-adds

Made by `python benchmarks/macs.py` with torch {torch.__version__}: one image, 100 classes. One multiplication with its
addition counts 1. `count_macs` and fvcore with the handlers of that script must agree; fvcore as installed skips fused
attention and LSTMs, and adds rough numbers for normalisation and pooling. Fourier transforms count 0 in every column.

| model | image | parameters | count_macs | fvcore, exact | fvcore, as installed |
|---|---|---:|---:|---:|---:|"""

if __name__ == "__main__":
    sys.exit(main(typed(__doc__, "MODEL")))
