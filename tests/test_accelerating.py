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
from cifarblocks import blocks
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
    assert {"batch_norm", "batch_norm_backward", "depthwise_gradients"} <= set(kernels)


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


BLOCKS = {
    "Sequential": (lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()), ["1", "2"]),
    "BasicBlock": (
        lambda: blocks.BasicBlock(6, 6),
        ["norm1", "attention1", "activation1", "norm2", "attention2", "drop_path", "attention3", "activation2"],
    ),
    "BasicBlock, stride 2": (lambda: blocks.BasicBlock(6, 8, 2), ["norm1", "activation1", "norm2", "activation2"]),
    "Bottleneck": (
        lambda: blocks.Bottleneck(8, 2),
        ["norm1", "activation1", "norm2", "activation2", "norm3", "attention", "drop_path", "activation3"],
    ),
    "PreActBlock": (lambda: blocks.PreActBlock(6, 8), ["norm1", "activation1", "norm2", "activation2"]),
    "ResNeStBottleneck": (
        lambda: blocks.ResNeStBottleneck(32, 8),
        [
            "reduce.1",
            "reduce.2",
            "attention.splits.1",
            "attention.splits.2",
            "expand",
            "expand.1",
            "expand.2",
            "drop_path",
            "activation",
        ],
    ),
    "GhostModule": (lambda: blocks.GhostModule(6, 8), ["primary.1", "primary.2", "cheap.1", "cheap.2"]),
}
cases = pytest.mark.parametrize(("build", "paths"), BLOCKS.values(), ids=BLOCKS)


def block_and_input(build):
    """A block, the same accelerated, and a map for them."""
    plain = randomise(build().double()).to(memory_format=torch.channels_last)
    first = next(part for part in plain.modules() if isinstance(part, nn.Conv2d))
    x = torch.randn(4, first.in_channels, 7, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    return plain, cifarblocks.accelerate(copy.deepcopy(plain)), x


def relus(block, x):
    """Count the ReLUs of torch in the graph of the output."""
    nodes = [block(x).grad_fn]
    for node in nodes:
        nodes += [after for after, _ in node.next_functions if after is not None and after not in nodes]
    return sum(node.name() == "ReluBackward0" for node in nodes)


@cases
def test_a_norm_and_its_relu_are_one_step(build, paths):
    plain, fast, x = block_and_input(build)
    torch.testing.assert_close(step(fast, x), step(plain, x), rtol=1e-9, atol=1e-10)
    ends = [path for path in paths if type(plain.get_submodule(path)) is nn.ReLU]
    assert relus(fast, x) == relus(plain, x) - len(ends)
    assert not any("deferring" in vars(part) for part in fast.modules())


@cases
def test_but_not_while_a_hook_watches_what_is_between(build, paths):
    plain, fast, x = block_and_input(build)
    least = relus(fast, x)
    for path in paths:
        watched = []
        for model in (fast, plain):
            seen = []
            hook = model.get_submodule(path).register_forward_hook(watcher(seen))
            watched.append((step(model, x)[0], list(seen)))
            assert model is plain or relus(fast, x) == least + 1
            hook.remove()
        torch.testing.assert_close(*watched, rtol=1e-9, atol=1e-10)
    assert relus(fast, x) == least


@cases
def test_in_inference_a_relu_overwrites_what_the_norm_returns_unless_a_hook_keeps_it(build, paths):
    plain, fast, x = block_and_input(build)
    ends = [path for path in paths if type(plain.get_submodule(path)) is nn.ReLU]
    kept = x.clone()
    with torch.inference_mode():
        expected = plain.eval()(x)
        assert torch.equal(fast.eval()(x), expected)
        assert torch.equal(fast(x.contiguous()), plain(x.contiguous()))
        assert torch.equal(x, kept)
        assert overwriting_relus(fast, x) == len(ends)
        seen = []
        hook = fast.get_submodule(paths[0]).register_forward_hook(watcher(seen))
        assert overwriting_relus(fast, x) == len(ends) - 1
        hook.remove()
        assert torch.equal(fast(x), expected)
    assert overwriting_relus(fast, x) == 0  # with gradients


def overwriting_relus(block, x):
    """Count the ReLUs in place."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        block(x)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::relu_")


def watcher(seen):
    """A hook that keeps what a part is given and what it returns."""
    return lambda _, inputs, output: seen.extend([*inputs, output])


OTHERWISE = {
    "another activation": lambda block: setattr(block, "activation1", nn.GELU()),
    "an attention": lambda block: setattr(block, "attention2", blocks.ECA(6).double()),
    "another attention": lambda block: setattr(block, "attention3", nn.Tanh()),
    "no addition": lambda block: setattr(block, "shortcut", nn.BatchNorm2d(6).double()),
    "a pooling": lambda block: setattr(block, "shortcut", nn.AvgPool2d(1)),
    "another forward": lambda block: setattr(block.activation2, "forward", torch.tanh),
    "dropped paths": lambda block: setattr(block.drop_path, "rate", 0.5),
    "a frozen norm": lambda block: block.norm2.eval(),
    "cumulative statistics": lambda block: setattr(block.norm1, "momentum", None),
    "frozen weights": lambda block: block.norm2.requires_grad_(False),
    "half the norms": lambda block: setattr(block, "norm1", nn.Identity()),
    "a shared ReLU": lambda block: setattr(block, "activation1", block.activation2),
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_a_block_changed_afterwards_is_what_it_says(change):
    plain, fast, x = block_and_input(lambda: blocks.BasicBlock(6, 6))
    outcomes = []
    for model in (plain, fast):
        torch.manual_seed(1)
        model.train()
        change(model)
        y = model(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        outcomes.append([y, *(p.grad for p in model.parameters()), *model.buffers()])
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-10)


def test_outside_the_block_the_norm_gives_a_tensor_and_global_hooks_see_one():
    _, fast, x = block_and_input(lambda: blocks.BasicBlock(6, 6))
    assert isinstance(fast.norm1(x), torch.Tensor)
    kinds = set()
    hook = nn.modules.module.register_module_forward_hook(lambda *arguments: kinds.add(type(arguments[2])))
    try:
        fast(x)
    finally:
        hook.remove()
    assert kinds == {torch.Tensor}


def test_without_gradients_and_twice_differentiated_a_block_is_torchs():
    plain, fast, x = block_and_input(lambda: blocks.BasicBlock(6, 6))
    outcomes = []
    for model in (plain, fast):
        with torch.no_grad():
            y = model(x)
        weight = model.norm1.weight
        (first,) = torch.autograd.grad(model(x).square().sum(), weight, create_graph=True)
        outcomes.append([y, first, *torch.autograd.grad(first.square().sum(), [weight, model.norm2.bias])])
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-9)


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
