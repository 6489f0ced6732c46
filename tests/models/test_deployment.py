"""Classifiers compiled by inductor, and exported to ONNX and run in onnxruntime with another batch than they got."""

from inspect import signature

import onnxruntime
import pytest
import torch
import torch._inductor.config
from networks import NAMES, NOT_WHOLE, ONE_A_FAMILY, OTHERS, TWINS, build, give_branches_weight, images, small, walk
from tools import assert_compiles_whole, assert_exports_with_any_batch

from cifarblocks.registry import find_model

# The exporter's own notices; nothing here depends on them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
# Loops that the C++ compiler neither vectorises nor optimises compute the same, and take less than half as long to get.
UNOPTIMISED = {"aot_inductor.debug_compile": True, "cpp.simdlen": 1}


def family(name: str) -> str:
    return find_model(name).__module__


def test_one_of_every_family_is_in_the_quick_suite():
    assert sorted(map(family, ONE_A_FAMILY)) == sorted(set(map(family, set(NAMES) - TWINS)))


@pytest.mark.skipif("dynamic_shapes" not in signature(torch.onnx.export).parameters, reason="torch has it from 2.6")
@torch.no_grad()
@pytest.mark.parametrize("name", walk(NAMES, OTHERS))
def test_onnxruntime_computes_the_same(name, tmp_path):
    model, x, more = give_branches_weight(build(name), 0.1).eval(), torch.randn(2, 3, 32, 32), torch.randn(5, 3, 32, 32)
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (x,), dynamic_shapes=dynamic, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    result = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: more.numpy()})[0])
    expected = model(more)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("name", walk(sorted(set(NAMES) - NOT_WHOLE), OTHERS))
def test_inductor_computes_the_same(name):
    torch._dynamo.reset()  # it counts how often it has compiled Classifier.forward
    model, x = give_branches_weight(build(name), 0.1).eval(), torch.randn(2, 3, 32, 32)
    expected = model(x)
    with torch._inductor.config.patch(UNOPTIMISED):
        result = torch.compile(model, fullgraph=True)(x)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


# The quick suite does this for accelerated networks, in tests/native/test_tools.py.
@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_WHOLE))
def test_it_compiles_whole(name, training):
    model = small(name, dropout=0.0, drop_path=0.0).double().train(training)
    assert_compiles_whole(model, images(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_WHOLE))
def test_it_is_exported_with_any_batch(name):
    model = small(name).double().eval()
    assert_exports_with_any_batch(model, images(model), images(model, 5))
