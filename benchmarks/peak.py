"""Measure the peak rates of this machine: matrix products, 3×3 convolutions and memory.

    python benchmarks/peak.py

Each rate is the best of many runs. Other benchmarks call `measure` and give shares of these rates. Takes 20 seconds.
Writes benchmarks/results/peak.PROCESSOR.json and the table beside it.
"""

from collections.abc import Callable
from typing import Any

import torch
from measuring import described, measure_all, processor, seconds
from torch import Tensor, nn

RUNS, WIDTH, BATCH, CHANNELS, SIZE = 15, 2048, 128, 64, 32
Step = Callable[[], object]


def best(run: Step) -> float:
    """Return the shortest time of some runs."""
    run()
    return min(seconds(run) for _ in range(RUNS))


def product_rate(dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a matrix product; a multiply-add is two."""
    a, b = (torch.randn(WIDTH, WIDTH).to(dtype) for _ in range(2))
    return 2 * WIDTH**3 / best(lambda: a @ b)


def convolution_rate(dtype: torch.dtype) -> float:
    """Return those of a 3×3 convolution with its gradients, channels_last."""
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    ones = torch.ones_like(conv(x))

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(conv(x), (x, conv.weight), ones)

    return 3 * 2 * BATCH * SIZE**2 * CHANNELS**2 * 9 / best(step)


def bandwidth() -> float:
    """Return the bytes per second, read and written, of a copy that is too large for the caches."""
    a = torch.randn(2**26)
    b = torch.empty_like(a)
    return 2 * a.nbytes / best(lambda: b.copy_(a))


def measure() -> dict[str, float]:
    """Measure all rates."""
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    rates = {f"product_{name}": product_rate(dtype) for name, dtype in types.items()}
    rates |= {f"convolution_{name}": convolution_rate(dtype) for name, dtype in types.items()}
    return rates | {"bandwidth": bandwidth()}


def table(record: dict[str, Any]) -> str:
    """Return the page of the record."""
    rates = record["rates"]
    giga = {name: f"{rate / 1e9:,.0f}" for name, rate in rates.items()}
    return f"""# Peak rates of the machine

Made by `python benchmarks/peak.py`: billions of floating-point operations per second, the best of {RUNS} runs, on
{described(record)}. Memory: {rates["bandwidth"] / 1e9:.1f} GB per second, read and written.

| GFLOP/s | bfloat16 | float32 |
|---|---:|---:|
| matrix product, {WIDTH} wide | {giga["product_bfloat16"]} | {giga["product_float32"]} |
| 3×3 convolution and gradients, {CHANNELS} wide | {giga["convolution_bfloat16"]} | {giga["convolution_float32"]} |
"""


if __name__ == "__main__":
    measure_all(f"peak.{processor()}", __doc__, lambda: {"rates": measure()}, table)
