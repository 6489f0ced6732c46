"""Every block of the door, for any map, dtype and memory format."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from properties import CASES, GENERIC, WITHOUT_GRADIENT_IN_TRAINING, dead, gradients
from tools import (
    as_drawn,
    assert_compiles_whole,
    assert_equal_outputs,
    assert_exports_with_any_batch,
    assert_gradients_of_each_sample,
    assert_hooks_keep_what_they_see,
    assert_jit_traces,
    assert_layers_are_torchs_own,
    assert_vmap_computes_stacked,
    filled_in,
    fx_traced,
    with_drop_path,
    without_batch_norm,
)

from cifarblocks import blocks

NAMES = [name for name in blocks.__all__ if name in GENERIC and name in CASES]
MAPS = [name for name in NAMES if GENERIC[name].tokens is None]
with torch.device("meta"):
    BUILT = {name: GENERIC[name].build() for name in NAMES}
TRAINED_IMAGE_BY_IMAGE = [n for n in NAMES if list(BUILT[n].parameters()) and without_batch_norm(BUILT[n].modules())]
sizes = st.integers(1, 9)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return GENERIC[name]


@pytest.mark.parametrize(("table", "cases"), [("CASES", CASES), ("GENERIC", GENERIC)])
def test_every_block_of_the_door_has_its_cases(table, cases):
    for name in blocks.__all__:
        assert name in cases, f"{name} has no case in {table} of tests/blocks/properties.py"
    for name in cases:
        assert name in blocks.__all__, f"{name} of {table} in tests/blocks/properties.py is no block of the door"


def test_every_block_has_tests_of_its_own():
    for name in blocks.__all__:
        file = f"test_{getattr(blocks, name).__module__.rpartition('.')[2]}.py"
        assert Path(__file__).with_name(file).exists(), f"{name} has no tests/blocks/{file}"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(
    data=st.data(),
    batch=st.integers(1, 3),
    h=sizes,
    w=sizes,
    training=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    autocast=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_any_map_gives_the_right_shape_and_finite_gradients(name, data, batch, h, w, training, dtype, autocast, layout):
    case = data.draw(CASES[name])
    shape = case.output_shape(batch, h, w)
    assume(not training or batch * shape[-2] * shape[-1] > 1)  # BatchNorm cannot normalise a single value
    assume(not training or batch >= case.training_batch)
    # torch 2.14 makes the bfloat16 gradient of a strided convolution's weights, channels last on a CPU with
    # AVX512-BF16, from memory that nobody wrote where the map is narrower than the stride.
    assume(w >= case.stride or (dtype != torch.bfloat16 and not autocast))
    module = case.build().to(dtype).train(training)
    x = case.input(batch, h, w, dtype)
    if x.ndim == 4:
        module, x = module.to(memory_format=layout), x.to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
        y = module(x)
        assert y.shape == shape
        assert y.isfinite().all()
        for parameter, gradient in gradients(module, x).items():
            assert gradient is not None, parameter
            assert gradient.isfinite().all(), parameter


@pytest.mark.parametrize("training", [True, False])
def test_empty_batches_pass(case, training):
    x = case.input(0, 6, 8).requires_grad_()
    y = case.build().train(training)(x)
    assert y.shape == case.output_shape(0, 6, 8)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_learns_on_a_generic_input(name, case, training):
    module = case.build().double().train(training)
    exceptions = WITHOUT_GRADIENT_IN_TRAINING.get(name, set()) if training else set()
    unexpected = dead(module, case.input(4, 8, 10, torch.float64)) - exceptions
    assert not unexpected, f"{name} has parameters that do not learn, such as a bias before BatchNorm: {unexpected}"


def test_gradients_are_those_of_finite_differences(case):
    module = case.build().double().eval()
    x = case.input(2, 3, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, x, fast_mode=True)


@pytest.mark.parametrize("name", MAPS)
def test_channels_last_in_gives_the_same_channels_last_out(name):
    case = GENERIC[name]
    module = case.build().double().eval()
    for h, w in ((6, 8), (9, 7)):
        x = case.input(2, h, w, torch.float64)
        expected = module.to(memory_format=torch.contiguous_format)(x)
        result = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_pure_bfloat16_and_autocast_are_near_float32(case):
    module = case.build().eval()
    x = case.input(2, 6, 8)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = module(x)
    pure = copy.deepcopy(module).bfloat16()(x.bfloat16())
    assert pure.dtype == torch.bfloat16
    for result in (autocast, pure):
        assert (result.float() - expected).norm() < 0.02 * expected.norm()


def test_copies_pickles_states_and_repetitions_compute_the_same(case):
    module = case.build().eval()
    x = case.input(2, 6, 8)
    expected = module(x)
    loaded = case.build().eval()
    loaded.load_state_dict(module.state_dict())
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(twin(x), expected)


def test_blocks_are_built_and_run_on_the_meta_device(case):
    with torch.device("meta"):
        module = case.build()
        y = module(case.input(2, 6, 8))
    assert y.device.type == "meta"
    assert y.shape == case.output_shape(2, 6, 8)


def test_blocks_compile_and_export_whole_with_any_batch(name, case):
    module, x = case.build().double().eval(), case.input(2, 6, 8, torch.float64)
    assert_compiles_whole(module, x)
    if name == "GlobalLocalFilter" and torch.__version__ < (2, 7):
        pytest.skip("before 2.7, torch exports Fourier transforms only for one size of batch (pytorch#145080)")
    assert_exports_with_any_batch(module, x, case.input(5, 6, 8, torch.float64))


def test_layers_are_torchs_own(name):
    assert_layers_are_torchs_own(BUILT[name])


@pytest.mark.parametrize("training", [True, False])
def test_fx_traces_it(case, training):
    module = with_drop_path(case.build()).double().train(training)
    traced = fx_traced(module)
    for h, w in ((6, 8), (9, 7)):
        assert_equal_outputs(traced, module, case.input(4, h, w, torch.float64))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False])
def test_jit_traces_it(case, training):
    module = with_drop_path(case.build()).double().train(training)
    assert_jit_traces(module, case.input(2, 6, 8, torch.float64), case.input(4, 6, 8, torch.float64), training)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention is not batched, but computed in a loop
@pytest.mark.parametrize("training", [True, False])
def test_vmap_computes_stacked_blocks(case, training):
    models = [case.build().double().train(training) for _ in range(2)]
    x = torch.stack([case.input(2, 6, 8, torch.float64) for _ in models])
    assert_vmap_computes_stacked(models, x, x_dim=0)


def test_vmap_drops_other_images_of_each_copy():
    y = torch.vmap(blocks.DropPath(0.5).train(), randomness="different")(torch.ones(16, 4, 2, 3, 3))
    images = y.flatten(2)
    assert ((images == 0).all(2) | (images == 2).all(2)).all()  # whole ones
    assert len(images[:, :, 0].unique(dim=0)) > 4


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", TRAINED_IMAGE_BY_IMAGE)
def test_gradients_of_each_sample_equal_those_of_a_loop(name):
    case = GENERIC[name]
    assert_gradients_of_each_sample(case.build().double(), case.input(3, 6, 8, torch.float64))


def test_what_a_forward_hook_keeps_stays(case):
    module = with_drop_path(case.build()).train()
    assert_hooks_keep_what_they_see(module, case.input(4, 6, 8).requires_grad_())


def test_a_block_filled_in_is_as_a_fresh_one(case):
    build = case.build
    torch.manual_seed(0)
    with torch.device("meta"):
        module = build()
    ours = filled_in(module).state_dict()
    torch.manual_seed(0)
    theirs = build().state_dict()
    drawn_in_another_order = [path for path, tensor in ours.items() if not torch.equal(tensor, theirs[path])]
    if not drawn_in_another_order:
        return
    ours, theirs = ([draw().state_dict() for _ in range(100)] for draw in (lambda: filled_in(module.to("meta")), build))
    for path in drawn_in_another_order:
        assert as_drawn(*(torch.stack([state[path] for state in states]) for states in (ours, theirs))), path
