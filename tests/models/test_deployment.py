"""Classifiers compiled by inductor, and exported to ONNX and run in onnxruntime with another batch than they got."""

from inspect import signature

import pytest
import torch
import torch._inductor.config
from networks import NAMES, NOT_WHOLE, ONE_A_KIND, images, small, walk
from tools import TRAINING_FIRST, assert_compiles_whole, assert_exports_with_any_batch, through_onnx

from cifarblocks.registry import find_model

# The exporter's own notices; nothing here depends on them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
# Loops that the C++ compiler neither vectorises nor optimises compute the same, and take less than half as long to get.
UNOPTIMISED = {"aot_inductor.debug_compile": True, "cpp.simdlen": 1}


def family(name: str) -> str:
    return find_model(name).__module__


def test_one_of_every_family_is_in_the_quick_suite():
    """The ablations are networks of the other families."""
    quick = set(map(family, ONE_A_KIND)) | {"cifarblocks.models.ablations"}
    for name in NAMES:
        assert family(name) in quick, f"ONE_A_KIND of tests/models/networks.py has no network of the family of {name}"


@pytest.mark.skipif("dynamic_shapes" not in signature(torch.onnx.export).parameters, reason="torch has it from 2.6")
@torch.no_grad()
@pytest.mark.parametrize("name", walk(quick={"eca_resnet_20", "nano_vit"}))
def test_onnxruntime_computes_the_same(name, tmp_path):
    model = small(name).eval()
    x, more = images(model, 2, torch.float32), images(model, 5, torch.float32)
    result = through_onnx(model, x, more, tmp_path / "model.onnx")
    expected = model(more)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("name", walk(without=NOT_WHOLE, quick={"eca_resnet_20"}))
def test_inductor_computes_the_same(name):
    torch._dynamo.reset()  # it counts how often it has compiled Classifier.forward
    model = small(name).eval()
    x = images(model, dtype=torch.float32)
    expected = model(x)
    with torch._inductor.config.patch(UNOPTIMISED):
        result = torch.compile(model, fullgraph=True)(x)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("training", TRAINING_FIRST)
@pytest.mark.parametrize("name", walk(without=NOT_WHOLE))
def test_it_compiles_whole(name, training):
    model = small(name, dropout=0.0, drop_path=0.0).double().train(training)
    assert_compiles_whole(model, images(model))


@pytest.mark.parametrize("name", walk(without=NOT_WHOLE))
def test_it_is_exported_with_any_batch(name):
    if name.endswith("_gf") and torch.__version__ < (2, 7):
        pytest.skip("before 2.7, torch exports Fourier transforms only for one size of batch (pytorch#145080)")
    model = small(name).double().eval()
    assert_exports_with_any_batch(model, images(model), images(model, 5))
