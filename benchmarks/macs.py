"""Compare count_macs with fvcore, with exact handlers for the operations that fvcore skips or estimates.

    python benchmarks/macs.py               # all models: about a minute; writes benchmarks/results/macs.md
    python benchmarks/macs.py resnet_20     # fvcore's table of that model, module by module

A multiply-add is one multiplication with its addition; some call it a FLOP, others two. fvcore as installed counts
nothing for fused attention and LSTMs, rounds einsum, and adds estimates for normalisation and pooling. The handlers
here count the first three exactly, and normalisation and pooling as 0, as in the tables of papers. Fourier transforms
count 0 in every column.
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
    """Return 0, for operations that do not count."""
    return 0


def shape(value: Any) -> list[int]:
    """Return the shape of a tensor in a traced graph."""
    return value.type().sizes()


def attention_macs(inputs: list[Any], _: list[Any]) -> int:
    """Count scaled dot product attention: query · key for each pair of tokens, then the weighted sum of values."""
    query, key, value = map(shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def einsum_macs(inputs: list[Any], _: list[Any]) -> int:
    """Count einsum, two operands at a time from the left: one multiply-add for each choice of all their indices."""
    operands, _, result = inputs[0].toIValue().replace(" ", "").partition("->")
    terms, sizes = operands.split(","), list(map(shape, inputs[1].node().inputs()))
    length = {index: size for term, of in zip(terms, sizes, strict=True) for index, size in zip(term, of, strict=True)}
    held, total = set(terms[0]), 0
    for place, term in enumerate(terms[1:], start=2):
        total += prod(length[index] for index in held | set(term))
        held = (held | set(term)) & set(result).union(*terms[place:])
    return total


def lstm_macs(inputs: list[Any], _: list[Any]) -> int:
    """Count an LSTM: each weight matrix of each layer and direction once for each token."""
    weights = [shape(weight) for weight in inputs[2].node().inputs()]
    return prod(shape(inputs[0])[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def as_installed(module: nn.Module, x: Tensor) -> FlopCountAnalysis:
    """Return fvcore's analysis of a module in eval mode."""
    counted = FlopCountAnalysis(module.eval(), x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counted.tracer_warnings("none")


def exact(module: nn.Module, x: Tensor) -> FlopCountAnalysis:
    """Return the same with exact fused attention, einsum and LSTMs, and without normalisation and pooling."""
    handlers = {"scaled_dot_product_attention": attention_macs, "einsum": einsum_macs, "lstm": lstm_macs}
    counted = as_installed(module, x).set_op_handle(**dict.fromkeys(UNCOUNTED, nothing))
    return counted.set_op_handle(**{f"aten::{name}": handler for name, handler in handlers.items()})


def image_of(model: Any) -> Tensor:
    """Return an image of the model's channels and size."""
    return torch.randn(1, model.in_channels, *model.image_size)


def line(name: str) -> str:
    """Return one model as a line of the table."""
    model: Any = cifarblocks.create_model(name)
    x = image_of(model)
    numbers = [sum(p.numel() for p in model.parameters()), cifarblocks.count_macs(model)]
    numbers += [int(exact(model, x).total()), int(as_installed(model, x).total())]
    size = "×".join(map(str, model.image_size))
    return f"| {name} | {size} | {' | '.join(f'{number:,}' for number in numbers)} |"


def main(names: list[str]) -> int:
    """Print fvcore's table of the named models; without names, print and write the table of all."""
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

Made by `python benchmarks/macs.py` with torch {torch.__version__}, for one image and 100 classes.

- A multiply-add is one multiplication with its addition.
- "fvcore, exact" has the handlers of that script. It must equal `count_macs`.
- "fvcore, as installed" skips fused attention and LSTMs, and adds estimates for normalisation and pooling.
- Fourier transforms count 0 in every column.

| model | image | parameters | count_macs | fvcore, exact | fvcore, as installed |
|---|---|---:|---:|---:|---:|"""

if __name__ == "__main__":
    sys.exit(main(typed(__doc__, "MODEL")))
