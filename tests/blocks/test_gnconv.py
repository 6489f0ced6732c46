from functools import partial

import pytest
import torch
from references import assert_equals_formula, convolution, gelu, layer_norm, randomise
from torch import Tensor

from cifarblocks.blocks import GlobalLocalFilter, GnConv, HorNetBlock
from cifarblocks.blocks.gnconv import filtered

X = torch.randn(2, 8, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gnconv(x: Tensor, module, order: int, filtered, alpha: float = 3) -> Tensor:
    """The recursion of the paper, every step divided by alpha as there."""
    channels = x.shape[1]
    widths = [channels // 2 ** (order - 1 - k) for k in range(order)]
    z = convolution(x, module.expand)
    p, q, start = z[:, : widths[0]], [], 0
    gates = filtered(z[:, widths[0] :])
    for width in widths:
        q.append(gates[:, start : start + width])
        start += width
    p = p * q[0] / alpha
    for k in range(1, order):
        p = convolution(p, module.steps[k - 1]) * q[k] / alpha
    return convolution(p, module.project)


def block(x: Tensor, module, order: int, filtered) -> Tensor:
    y = gnconv(layer_norm(x, module.gnconv_norm), module.gnconv, order, lambda x: filtered(x, module.gnconv.filter))
    x = x + module.gnconv_scale.gamma.view(-1, 1, 1) * y
    y = convolution(gelu(convolution(layer_norm(x, module.mlp_norm), module.mlp[0])), module.mlp[2])
    return x + module.mlp_scale.gamma.view(-1, 1, 1) * y


def circular_filter(x: Tensor, spectrum: Tensor) -> Tensor:
    """Multiply the half spectrum, by sums over waves; all but the first and the fastest stand for their mirror too."""
    h, w = x.shape[-2:]

    def waves(size: int, count: int) -> Tensor:
        phases = torch.outer(torch.arange(size), torch.arange(count)).double() * 2 * torch.pi / size
        return torch.complex(phases.cos(), -phases.sin()) / size**0.5

    rows, columns = waves(h, h), waves(w, w // 2 + 1)
    half = torch.einsum("yu,bcux,xv->bcyv", rows, x.to(rows.dtype), columns) * torch.complex(spectrum[0], spectrum[1])
    counted = torch.tensor([1.0 if 2 * v in (0, w) else 2.0 for v in range(w // 2 + 1)], dtype=rows.dtype)
    return torch.einsum("v,yu,bcyv,xv->bcux", counted, rows.conj(), half, columns.conj()).real


def global_local(x: Tensor, module) -> Tensor:
    x = layer_norm(x, module.norm_in)
    half = x.shape[1] // 2
    near = convolution(x[:, :half], module.local)
    far = circular_filter(x[:, half:], module.spectrum)
    channels = [part[:, c] for c in range(half) for part in (near, far)]
    return layer_norm(torch.stack(channels, 1), module.norm_out)


@pytest.mark.parametrize(("order", "alpha"), [(1, 3), (2, 3), (3, 3), (4, 3), (3, 2)])
def test_recursion_is_its_formula(order, alpha):
    module = randomise(GnConv(8, order, 1 / alpha)).double()
    assert_equals_formula(
        module, lambda x: gnconv(x, module, order, partial(convolution, conv=module.filter), alpha), X
    )


def test_weights_resized_to_another_map_lie_on_the_straight_lines_between_the_corners():
    module = randomise(GlobalLocalFilter(6, (8, 5))).double()
    slopes = torch.randn(3, 2, 3, 1, 1, dtype=torch.float64)

    def plane(rows: int, columns: int) -> Tensor:
        y = torch.linspace(0, 1, rows, dtype=torch.float64).view(-1, 1)
        x = torch.linspace(0, 1, columns, dtype=torch.float64)
        return slopes[0] + slopes[1] * y + slopes[2] * x

    module.spectrum.data.copy_(plane(8, 3))
    for h, w in ((15, 9), (3, 12), (8, 7)):
        x = torch.randn(2, 3, h, w, dtype=torch.float64)
        expected = circular_filter(x, plane(h, w // 2 + 1))
        torch.testing.assert_close(filtered(x, module.spectrum), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("h", "w"), [(5, 4), (4, 5), (1, 1), (2, 6)])
def test_global_filter_is_its_formula(h, w):
    module = randomise(GlobalLocalFilter(6, (h, w))).double()
    x = torch.randn(2, 6, h, w, dtype=torch.float64)
    assert_equals_formula(module, lambda x: global_local(x, module), x)


def test_recursion_with_the_global_filter_is_its_formula():
    # 8 channels at order 3 have gates of 2 + 4 + 8 channels.
    module = randomise(GnConv(8, 3, filter=partial(GlobalLocalFilter, size=(5, 4)))).double()
    assert_equals_formula(module, lambda x: gnconv(x, module, 3, partial(global_local, module=module.filter)), X)


def test_block_is_its_formula():
    module = randomise(HorNetBlock(8, 2)).double()
    assert_equals_formula(module, lambda x: block(x, module, 2, convolution), X)


def test_the_transform_is_computed_in_float32_under_bfloat16():
    module = GlobalLocalFilter(4, (6, 6)).bfloat16()
    x = torch.randn(1, 2, 6, 6).bfloat16()
    expected = filtered(x.float(), module.spectrum.float()).bfloat16()
    assert torch.equal(filtered(x, module.spectrum), expected)
