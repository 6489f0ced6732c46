"""Every block compiled by inductor, and exported to ONNX and run in onnxruntime with another batch than it got."""

import pytest
import torch
from properties import GENERIC
from tools import through_onnx

from cifarblocks import blocks

pytestmark = [
    pytest.mark.slow,
    # The exporter's own notices; nothing here depends on them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@torch.no_grad()
@pytest.mark.parametrize("name", blocks.__all__)
def test_onnxruntime_computes_the_same(name, tmp_path):
    case = GENERIC[name]
    module, more = case.build().eval(), case.input(5, 8, 10)
    result = through_onnx(module, case.input(2, 8, 10), more, tmp_path / "block.onnx", optimize=name not in RESIZED)
    torch.testing.assert_close(result, module(more), rtol=1e-4, atol=1e-5)


# Their tables are made for 8×5 and resized: onnxscript 0.7's optimiser folds that resize to wrong numbers.
RESIZED = frozenset({"RelativeAttention", "RelativeTransformerBlock"})


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(RESIZED))
def test_tables_of_the_maps_own_size_survive_the_optimiser(name, tmp_path):
    case = GENERIC[name]
    module, more = case.build().eval(), case.input(5, 8, 5)
    result = through_onnx(module, case.input(2, 8, 5), more, tmp_path / "block.onnx")
    torch.testing.assert_close(result, module(more), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("optimize", [False, True])
def test_a_resized_spectrum_is_exported(optimize, tmp_path):
    module, x, more = blocks.GlobalLocalFilter(6, (8, 10)).eval(), torch.randn(2, 6, 7, 12), torch.randn(5, 6, 7, 12)
    result = through_onnx(module, x, more, tmp_path / "block.onnx", optimize)
    torch.testing.assert_close(result, module(more), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", blocks.__all__)
def test_inductor_computes_the_same_forward_and_backward(name):
    case = GENERIC[name]
    module = case.build().double()
    results = []
    for each in (module, torch.compile(module, fullgraph=True)):
        module.zero_grad()
        torch.manual_seed(1)
        x = case.input(4, 8, 10, torch.float64).requires_grad_()
        y = each(x)
        y.square().sum().backward()
        results.append([y, x.grad, *[parameter.grad.clone() for parameter in module.parameters()]])
    # inductor rounds the sixth in the gradient of Hardsigmoid, the gate of GhostBottleneck, to float32.
    tolerance = 1e-6 if name == "GhostBottleneck" else 1e-9
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
