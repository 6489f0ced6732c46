"""Packed layers: equal to torch's, packed again after a change, and torch's own wherever oneDNN does not serve."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import cifarblocks
from cifarblocks.native import packed
from cifarblocks.native.packed import PackedConv2d, PackedLinear

CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(16, 24, 3, padding=1),
    "1x1": lambda: nn.Conv2d(16, 8, 1),
    "strided": lambda: nn.Conv2d(16, 24, 3, 2, padding=1, bias=False),
    "grouped": lambda: nn.Conv2d(16, 32, 3, padding=1, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, 5, padding=2, groups=16),
    "dilated": lambda: nn.Conv2d(16, 16, 3, padding=2, dilation=2),
    "uneven": lambda: nn.Conv2d(16, 24, (1, 3), (2, 1), padding=(0, 1)),
}
ACTIVATIONS = [None, nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid()]
# Of one image torch gives small float32 maps to MKL, and large maps have other rules than small ones.
SIZES = [(1, 6, 5), (2, 7, 5), (1, 40, 40), (32, 16, 16)]
TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2**-7, "atol": 2**-6}}


@pytest.fixture
def calls(monkeypatch):
    """The shapes for which weights are packed."""
    shapes = []
    for kind in (PackedConv2d, PackedLinear):
        pack = kind.pack
        monkeypatch.setattr(kind, "pack", lambda self, x, pack=pack: shapes.append(x.shape) or pack(self, x))
    return shapes


def fused(layer, dtype=torch.float32):
    """The layer as `fuse` leaves it, and itself in float64, with the same values."""
    layer = layer.to(dtype).to(memory_format=torch.channels_last)
    return cifarblocks.fuse(layer), copy.deepcopy(layer).double()


def maps(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)


def expected(layer, x, plus, activation):
    y = layer(x.double()) + (0 if plus is None else plus.double())
    return y if activation is None else activation(y)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_adds_and_activates_as_torch_does(name, dtype, calls):
    ours, torchs = fused(CONVOLUTIONS[name](), dtype)
    assert type(ours) is PackedConv2d
    for size in SIZES:
        x = maps(size[0], 16, *size[1:], dtype=dtype)
        for activation in ACTIVATIONS:
            for plus in (None, torch.randn_like(ours(x))):
                y = ours.followed_by(x, plus, activation)
                assert y.dtype == dtype
                assert y.is_contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(y.double(), expected(torchs, x, plus, activation), **TOLERANCES[dtype])
    by_mkl = [SIZES[0]] if dtype == torch.float32 and ours.groups == 1 else []
    assert calls == [(b, 16, h, w) for b, h, w in SIZES if (b, h, w) not in by_mkl]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16), (2, 3, 4, 16), (64, 128, 16)])
def test_a_linear_layer_adds_and_activates_as_torch_does(shape, calls):
    ours, torchs = fused(nn.Linear(16, 24), torch.bfloat16)
    assert type(ours) is PackedLinear
    x = torch.randn(shape).bfloat16()
    for activation in ACTIVATIONS:
        for plus in (None, torch.randn(*shape[:-1], 24).bfloat16()):
            y = ours.followed_by(x, plus, activation)
            torch.testing.assert_close(y.double(), expected(torchs, x, plus, activation), **TOLERANCES[torch.bfloat16])
    assert calls == [shape]


@torch.no_grad()
def test_what_is_added_may_be_broadcast_of_another_dtype_or_layout():
    ours, torchs = fused(nn.Conv2d(16, 24, 3, padding=1))
    x = maps(2, 16, 6, 5)
    for plus in (torch.randn(1, 24, 1, 1), torch.randn(2, 24, 6, 5), torch.randn(2, 24, 6, 5).double()):
        y = ours.followed_by(x, plus, nn.ReLU())
        torch.testing.assert_close(y.double(), expected(torchs, x, plus, nn.ReLU()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_added_is_not_changed():
    ours = fused(nn.Conv2d(16, 16, 3, padding=1))[0]
    x = maps(2, 16, 6, 5)
    before = x.clone()
    ours.followed_by(x, x, nn.ReLU()), ours.followed_by(x, x, nn.GELU())
    assert torch.equal(x, before)


@torch.no_grad()
def test_a_slice_of_channels_is_read_as_torch_reads_it():
    ours, torchs = fused(nn.Conv2d(16, 16, 5, padding=2, groups=16))
    x = maps(2, 40, 6, 5)[:, 8:24]
    torch.testing.assert_close(ours(x).double(), torchs(x.double()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()}),
        lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight * 2)),
        lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
        lambda layer: layer.bias.data.mul_(2),
        lambda layer: torch.optim.SGD([layer.weight], 0.5, weight_decay=1.0).step(),
    ],
    ids=["in place", "loaded", "replaced", "other data", "bias", "optimizer"],
)
@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(16, 16, 3, padding=1), lambda: nn.Linear(16, 16)])
def test_changed_weights_are_packed_again(layer, change):
    ours = fused(layer(), torch.bfloat16)[0]
    x = maps(2, 16, 6, 16, dtype=torch.bfloat16)
    ours(x)
    ours.weight.grad = torch.zeros_like(ours.weight)
    change(ours)
    with torch.enable_grad():  # by torch
        y = ours(x).detach()
    torch.testing.assert_close(ours(x), y, **TOLERANCES[torch.bfloat16])


@torch.no_grad()
def test_as_many_shapes_are_kept_as_are_allowed(calls):
    ours = fused(nn.Conv2d(16, 16, 3, padding=1))[0]
    for _ in range(2):
        for batch in range(2, 2 + packed.SHAPES):
            ours(maps(batch, 16, 6, 5))
    assert len(calls) == packed.SHAPES
    for batch in range(2, 50):
        ours(maps(batch, 16, 6, 5))
    assert len(ours._packing.by_shape) <= packed.SHAPES


@torch.no_grad()
def test_copies_and_files_have_nothing_packed():
    ours = fused(nn.Conv2d(16, 16, 3, padding=1))[0]
    x = maps(2, 16, 6, 5)
    y, file = ours(x), io.BytesIO()
    assert list(ours.state_dict()) == ["weight", "bias"]
    torch.save(ours, file)
    file.seek(0)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert "_packing" not in vars(twin)
        assert torch.equal(twin(x), y)
        twin.weight.zero_()
    assert torch.equal(ours(x), y)


@torch.no_grad()
def test_several_threads_share_a_layer():
    ours, torchs = fused(nn.Conv2d(16, 16, 3, padding=1))

    def right(batch):
        with torch.no_grad():
            x = maps(2 + batch % 12, 16, 6, 5)
            return torch.allclose(ours(x).double(), torchs(x.double()), atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(48)))


def by_torch(ours, x):
    """Return a function for each way in which torch's own convolution has to serve."""
    return {
        "gradients": lambda: ours(x),
        "vmap": lambda: torch.vmap(ours)(x[None])[0],
        "make_fx": lambda: make_fx(ours)(x)(x),
        "export": lambda: torch.export.export(nn.Sequential(ours), (x,)).module()(x),
        "functional_call": lambda: (
            torch.func.functional_call(ours, dict(ours.named_parameters()) | doubled(ours), x) / 2
        ),
        "autocast": lambda: autocast(ours, x),
        "mkldnn off": lambda: without_mkldnn(ours, x),
        "float64": lambda: ours.double()(x.double()).float(),
    }


def doubled(layer):
    return {name: 2 * value.detach() for name, value in layer.named_parameters()}


def autocast(layer, x):
    with torch.autocast("cpu"):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    return y.float()


def without_mkldnn(layer, x):
    with torch.backends.mkldnn.flags(enabled=False):
        return layer(x)


@pytest.mark.filterwarnings("ignore:TF32")  # by mkldnn.flags
@pytest.mark.parametrize("way", by_torch(None, None))
def test_torch_serves(way, calls):
    ours, torchs = fused(nn.Conv2d(16, 16, 3, padding=1))
    x = maps(2, 16, 6, 5)
    with torch.set_grad_enabled(way == "gradients"):
        y = by_torch(ours, x)[way]()
    assert not calls
    loose = {"rtol": 2**-6, "atol": 2**-5} if way == "autocast" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y.double(), torchs(x.double()), **loose)


def test_traces_have_only_operations_of_torch():
    model = cifarblocks.fuse(nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()))
    x = maps(2, 16, 6, 5)
    with torch.no_grad():
        y, program, traced = model(x), torch.export.export(model, (x,)), torch.jit.trace(model, x)
        graph = torch.fx.symbolic_trace(model)
    assert "mkldnn" not in str(program.graph) + str(traced.inlined_graph)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "2"]
    for exported in (program.module(), traced, graph):
        torch.testing.assert_close(exported(x), y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_the_operations_torch_serves(monkeypatch, calls):
    class Lacking:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(torch.ops, "mkldnn", Lacking())
    packed.has_operations.cache_clear()
    try:
        ours, torchs = fused(nn.Conv2d(16, 16, 3, padding=1))
        x = maps(2, 16, 6, 5)
        torch.testing.assert_close(ours(x).double(), torchs(x.double()), rtol=1e-5, atol=1e-5)
    finally:
        packed.has_operations.cache_clear()
    assert not calls


@torch.no_grad()
def test_inputs_that_torch_refuses_are_refused_by_torch():
    ours, torchs = fused(nn.Conv2d(16, 16, 3))
    for shape in [(2, 15, 6, 5), (2, 16, 2, 5), (16, 2)]:
        messages = []
        for layer, dtype in ((ours, torch.float32), (torchs, torch.float64)):
            with pytest.raises(RuntimeError) as raised:
                layer(torch.randn(shape, dtype=dtype))
            messages.append(str(raised.value))
        assert messages[0] == messages[1]
    assert ours(maps(0, 16, 6, 5)).shape == (0, 16, 4, 3)


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
def test_hooks_on_a_layer_and_on_its_activation_run(place):
    model = cifarblocks.fuse(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()))
    x, seen = maps(2, 16, 6, 5), []
    y = model(x)
    model[place].register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    torch.testing.assert_close(model(x), y)
    between = seen[1 - place]
    assert between.min() < 0
    assert torch.equal(between.relu(), model(x))
