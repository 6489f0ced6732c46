"""accelerate: the same model with faster layers, in place; restore: torch's own again."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from kernels import kernels_on
from references import randomise
from torch import nn
from torch.nn.utils import parametrizations, prune

import cifarblocks
from cifarblocks.native.batch_norm import NativeBatchNorm2d
from cifarblocks.native.depthwise import NativeDepthwiseConv2d

NATIVE = (NativeBatchNorm2d, NativeDepthwiseConv2d)


@pytest.fixture(autouse=True)
def kernels():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def a_model():
    """Norms, depthwise convolutions that gain, a dilated one, and what has no faster form."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        cifarblocks.blocks.MSCA(8),
        cifarblocks.blocks.LSKUnit(8),
        nn.BatchNorm2d(8),
    )
    return randomise(model.double()).to(memory_format=torch.channels_last)


def maps(batch=4):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 3, 9, 8, dtype=torch.float64, generator=generator)
    return x.to(memory_format=torch.channels_last)


def step(model, x):
    """Output, gradients and buffers of one step of training."""
    model.train().zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]


def natives(model):
    return [module for module in model.modules() if isinstance(module, NATIVE)]


def test_a_step_is_that_of_torch_and_the_kernels_run(kernels):
    plain = a_model()
    fast = cifarblocks.accelerate(copy.deepcopy(plain))
    expected = step(plain, maps())
    assert not kernels
    torch.testing.assert_close(step(fast, maps()), expected, rtol=1e-9, atol=1e-10)
    assert {"batch_norm", "batch_norm_backward", "weight_gradient"} <= set(kernels)


def test_it_is_the_same_model_with_the_same_parameters_and_buffers():
    model = a_model()
    before = [*model.parameters(), *model.buffers()]
    hook = model[1].register_forward_hook(lambda *_: None)
    assert cifarblocks.accelerate(model) is model
    assert all(old is new for old, new in zip(before, [*model.parameters(), *model.buffers()], strict=True))
    assert list(model[1]._forward_hooks) == [hook.id]
    assert len(natives(model)) == 11  # two norms; MSCA's 5x5 and six strips; LSK's 5x5 and dilated 7x7


def test_twice_is_once_and_restore_gives_exact_types_back():
    model = a_model()
    types = [type(module) for module in model.modules()]
    once = [type(module) for module in cifarblocks.accelerate(model).modules()]
    assert [type(module) for module in cifarblocks.accelerate(model).modules()] == once
    assert cifarblocks.restore(model) is model
    assert [type(module) for module in model.modules()] == types


def test_an_optimizer_made_before_goes_on():
    plain = a_model()
    fast = copy.deepcopy(plain)
    for model in (plain, fast):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if model is fast:
            cifarblocks.accelerate(model)
        for _ in range(2):
            step(model, maps())
            optimizer.step()
    torch.testing.assert_close([*fast.parameters()], [*plain.parameters()], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_stay_accelerated(how):
    model = cifarblocks.accelerate(a_model())
    if how == "save":
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert [type(module) for module in twin.modules()] == [type(module) for module in model.modules()]
    torch.testing.assert_close(step(twin, maps()), step(model, maps()), rtol=0, atol=0)


def test_state_dicts_go_both_ways():
    plain, fast = a_model(), cifarblocks.accelerate(a_model())
    assert list(plain.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(plain.state_dict())
    torch.testing.assert_close(fast.eval()(maps()), plain.eval()(maps()))
    plain.load_state_dict(fast.state_dict(), assign=True)
    fast.load_state_dict({key: value + 0 for key, value in plain.state_dict().items()}, assign=True)
    torch.testing.assert_close(fast(maps()), plain(maps()))


class Other(nn.BatchNorm2d):
    """A subclass."""


def shared():
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(norm, nn.ReLU(), norm)


def replaced():
    norm = nn.BatchNorm2d(4)
    norm.forward = lambda x: x
    return nn.Sequential(norm)


def depthwise_of(**options):
    return nn.Sequential(nn.Conv2d(4, 4, 5, groups=4, **{"padding": 2} | options))


OTHERS = {
    "shared": shared,
    "replaced": replaced,
    "subclass": lambda: nn.Sequential(Other(4)),
    "not affine": lambda: nn.Sequential(nn.BatchNorm2d(4, affine=False)),
    "synchronised": lambda: nn.Sequential(nn.SyncBatchNorm(4)),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(depthwise_of()[0])),
    "weight-normed": lambda: nn.Sequential(nn.utils.weight_norm(depthwise_of()[0])),
    "pruned": lambda: nn.Sequential(prune.random_unstructured(depthwise_of()[0], "weight", 0.5)),
    "unpadded": lambda: depthwise_of(padding=0),
    "same": lambda: depthwise_of(padding="same"),
    "circular": lambda: depthwise_of(padding_mode="circular"),
    "two filters a channel": lambda: nn.Sequential(nn.Conv2d(4, 8, 5, padding=2, groups=4)),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
def test_what_is_not_a_plain_layer_of_its_own_stays(build):
    model = build()
    types = [type(module) for module in model.modules()]
    assert [type(module) for module in cifarblocks.accelerate(model).modules()] == types


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4), pruned),
        (lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4), parametrizations.spectral_norm),
        (lambda: nn.BatchNorm2d(4), pruned),
    ],
)
def test_what_is_done_to_a_layer_afterwards_counts(build, change):
    plain = build().double()
    fast = cifarblocks.accelerate(copy.deepcopy(plain))
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    results = []
    for layer in (plain, fast):
        torch.manual_seed(0)
        change(layer)
        results.append(step(layer, x))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("when", ["before", "afterwards"])
def test_a_hook_sees_the_right_values_and_what_it_keeps_is_unchanged(when):
    plain, kept = a_model(), {}
    fast = copy.deepcopy(plain)

    def watch(model):
        kept[model] = []
        for module in model.modules():
            module.register_forward_hook(lambda _, __, output: kept[model].append((output, output.detach().clone())))
            if not list(module.children()):
                module.register_full_backward_hook(lambda _, __, gradients: None)

    if when == "before":
        watch(fast)
    cifarblocks.accelerate(fast)
    if when == "afterwards":
        watch(fast)
    watch(plain)
    results = [step(model, maps().requires_grad_()) for model in (fast, plain)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    for (ours, then), (theirs, _) in zip(kept[fast], kept[plain], strict=True):
        assert torch.equal(ours, then)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_fuse_takes_an_accelerated_model_and_accelerate_a_fused_one():
    model = cifarblocks.accelerate(a_model()).eval()
    fused = cifarblocks.fuse(model)
    assert not natives(fused)
    torch.testing.assert_close(cifarblocks.accelerate(fused)(maps()), model(maps()), rtol=1e-10, atol=1e-10)
    assert natives(fused)


def test_autocast_and_channels_last_train_as_without_it(kernels):
    plain = a_model().float()
    fast = cifarblocks.accelerate(copy.deepcopy(plain))
    losses = []
    for model in (plain, fast):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(maps().float())
        F.mse_loss(y.float(), torch.ones_like(y, dtype=torch.float32)).backward()
        losses.append(y.float())
    assert kernels
    torch.testing.assert_close(*losses, rtol=2e-2, atol=5e-2)
