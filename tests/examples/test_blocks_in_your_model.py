import copy
import io
import math
import pickle
import re
import sys

import blocks_in_your_model as example
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

ROW = re.compile(r"(.{28}) *([\d,]+) +([\d,]+)(?: +(\d+) of (\d+) +([\d.]+) → ([\d.]+))?")

# Of resnet18: its residual blocks' 3×3 convolutions as (in, out, side of the output map of a 64×64 image).
RESNET_18 = [
    convolution
    for c, side, before in ((64, 16, 64), (128, 8, 64), (256, 4, 128), (512, 2, 256))
    for convolution in ((before, c, side), (c, c, side), (c, c, side), (c, c, side))
]
KERNELS = {64: 3, 128: 5, 256: 5, 512: 5}  # the ECA paper's rule, k = |log2(c)/2 + 1/2| made odd
BLOCKS = pytest.mark.parametrize("block", [BasicBlock, Bottleneck])


def small_resnet(block, **arguments):
    """Blocks that stride and that do not, with a projection and without, and norms that are not fresh."""
    model = ResNet(block, [2, 1, 2, 1], num_classes=7, **arguments)
    return scrambled(model)


def scrambled(model):
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else tensor.normal_(std=0.3)
    return model.eval()


def counts(model, shape):
    """Parameters, and multiply-adds by hooks: each value a convolution or linear layer gives costs one filter."""
    macs = 0

    def count(layer, inputs, output):
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if hasattr(m, "weight") and m.weight.ndim > 1]
    with torch.no_grad():
        model.eval()(torch.randn(shape))
    for handle in handles:
        handle.remove()
    return sum(p.numel() for p in model.parameters()), macs


def table(text):
    rows = []
    for name, parameters, macs, *rest in (ROW.fullmatch(line).groups() for line in text.splitlines()[3:]):
        rows.append((name.strip(), *(int(n.replace(",", "")) for n in (parameters, macs)), *rest))
    return rows


def test_the_table_is_what_closed_forms_say(capsys):
    example.main()
    text = capsys.readouterr().out
    assert "one multiplication with its addition counts as 1 multiply-add" in text
    assert len({len(line) for line in text.splitlines()[3:] if "→" in line}) == 1  # aligned
    resnet, eca, again, ghost, convnext, lsk = table(text)

    parameters, macs = resnet[1:3]
    assert resnet == again
    assert parameters == ResNet18_Weights.IMAGENET1K_V1.meta["num_params"]
    stem_macs, head_macs = 64 * 3 * 49 * 32 * 32, 512 * 1000
    projections = 64 * 128 * 64 + 128 * 256 * 16 + 256 * 512 * 4
    assert macs == stem_macs + head_macs + projections + sum(9 * i * o * side**2 for i, o, side in RESNET_18)

    assert eca[1] - parameters == 2 * sum(KERNELS.values()) == 36
    assert eca[2] - macs == 2 * sum(c * k for c, k in KERNELS.items())

    # Half of the channels come from 3×3 convolutions, half from a depthwise 3×3 of those. As many are normalised.
    assert ghost[1] - parameters == sum(9 * o // 2 - 9 * i * o // 2 for i, o, _ in RESNET_18)
    assert ghost[2] - macs == sum((9 * o // 2 - 9 * i * o // 2) * side**2 for i, o, side in RESNET_18)

    reference = timm.create_model("convnext_atto")
    assert convnext[1:3] == counts(reference, (1, 3, 64, 64))
    c, pixels = reference.feature_info[1]["num_chs"], 8 * 8
    weights = 2 * c * c + (25 + 49) * c + 2 * c * (c // 2) + 2 * 2 * 49 + c // 2 * c
    biases = 2 * c + 2 * c + 2 * (c // 2) + 2 + c
    assert lsk[1] - convnext[1] == weights + biases + 2 * c + c  # LayerNorm2d and LayerScale
    assert lsk[2] - convnext[2] == weights * pixels

    for row, kept in (eca, 122), (ghost, 122 - 16 - 5 * 16), (lsk, len(reference.state_dict())):
        before, after = map(float, row[5:])
        assert int(row[3]) == kept
        assert math.isfinite(before)
        assert after < before


def test_without_timm_the_rest_is_done_and_a_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 4 + 1
    assert "timm is not installed" in lines[-1]


def branch(block, x):
    """The residual branch of an untouched block, written out."""
    y = F.relu(block.bn1(block.conv1(x)))
    y = block.bn2(block.conv2(y))
    return block.bn3(block.conv3(F.relu(y))) if isinstance(block, Bottleneck) else y


def shortcut(block, x):
    return x if block.downsample is None else block.downsample(x)


@BLOCKS
def test_eca_gates_the_branch_of_every_block_before_the_addition(block):
    model = small_resnet(block).double()
    untouched = copy.deepcopy(model)
    example.add_eca(model)
    model.double().eval()
    old, new = example.residual_blocks(untouched), example.residual_blocks(model)
    assert len(new) == 6
    for old_block, new_block in zip(old, new, strict=True):
        (kernel,) = (p for name, p in new_block.named_parameters() if ".eca." in name)
        x = torch.randn(2, old_block.conv1.in_channels, 9, 8, dtype=torch.float64)
        y = branch(old_block, x)
        gate = F.conv1d(y.mean((2, 3)).unsqueeze(1), kernel, padding=kernel.shape[-1] // 2).sigmoid()
        expected = F.relu(gate.view(*y.shape[:2], 1, 1) * y + shortcut(old_block, x))
        torch.testing.assert_close(new_block(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), "saved"])
def test_a_copy_has_gates_of_its_own(copied):
    model = small_resnet(BasicBlock)
    example.add_eca(model)
    x = torch.randn(1, 3, 32, 32)
    expected = model(x)
    if copied == "saved":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copied(model)
    assert torch.equal(twin(x), expected)
    for name, parameter in twin.named_parameters():
        if ".eca." in name:
            parameter.data.add_(1)
    assert torch.equal(model(x), expected)
    assert not torch.equal(twin(x), expected)


def ghost(module, x, activation):
    """A GhostModule of ratio 2 written out, from its convolutions and norms in their order."""
    first, cheap = (m for m in module.modules() if isinstance(m, nn.Conv2d))
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    y = activation(norms[0](F.conv2d(x, first.weight, stride=first.stride, padding=1)))
    return torch.cat([y, activation(norms[1](F.conv2d(y, cheap.weight, padding=1, groups=y.shape[1])))], dim=1)


@BLOCKS
def test_ghost_modules_are_normalised_and_rectified_once_and_not_before_the_addition(block):
    model = small_resnet(block)
    widths = [old.conv1.in_channels for old in example.residual_blocks(model)]
    example.use_ghost_modules(model)
    scrambled(model.double())
    for width, new in zip(widths, example.residual_blocks(model), strict=True):
        x = torch.randn(2, width, 9, 8, dtype=torch.float64)
        if block is Bottleneck:
            y = ghost(new.conv2, F.relu(new.bn1(new.conv1(x))), F.relu)
            y = new.bn3(new.conv3(y))
        else:
            y = ghost(new.conv2, ghost(new.conv1, x, F.relu), lambda y: y)
        assert (y < 0).any()
        torch.testing.assert_close(new(x), F.relu(y + shortcut(new, x)), rtol=0, atol=1e-10)


def stage_shapes(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    shapes = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        shapes.append(x.shape)
    return shapes


@BLOCKS
def test_ghost_modules_keep_every_stage_and_leave_no_whole_3x3_convolution(block):
    model = small_resnet(block)
    before = stage_shapes(model, torch.randn(1, 3, 64, 40))
    whole = {(m.in_channels, m.out_channels) for m in model.modules() if is_dense_3x3(m)}
    example.use_ghost_modules(model)
    assert stage_shapes(model, torch.randn(1, 3, 64, 40)) == before
    left = {(m.in_channels, m.out_channels) for m in model.modules() if is_dense_3x3(m)}
    assert left == {(i, o // 2) for i, o in whole}


def is_dense_3x3(module):
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.groups == 1


@pytest.mark.parametrize(
    ("arguments", "replaced"),
    [
        ({"groups": 2, "width_per_group": 32}, 0),
        ({"replace_stride_with_dilation": [False, False, True]}, 6),
        ({"replace_stride_with_dilation": [False, True, True]}, 4),
    ],
    ids=str,
)
def test_convolutions_with_groups_or_dilation_stay(arguments, replaced):
    model = small_resnet(Bottleneck, **arguments)
    before = stage_shapes(model, torch.randn(1, 3, 64, 64))
    example.use_ghost_modules(model)
    assert sum(type(module).__name__ == "GhostModule" for module in model.modules()) == replaced
    assert stage_shapes(model, torch.randn(1, 3, 64, 64)) == before


@BLOCKS
def test_an_old_checkpoint_fills_all_that_stays(block):
    old = small_resnet(block).state_dict()
    has_3x3 = ("conv1", "bn1", "conv2", "bn2") if block is BasicBlock else ("conv2", "bn2")
    replaced = {name for name in old if name.startswith("layer") and name.split(".")[2] in has_3x3}
    for change, unexpected in (example.add_eca, set()), (example.use_ghost_modules, replaced):
        model = ResNet(block, [2, 1, 2, 1], num_classes=7)
        change(model)
        answer = model.load_state_dict(old, strict=False)
        new = model.state_dict()
        assert set(answer.unexpected_keys) == unexpected
        counters = {name for name in new if name.endswith("num_batches_tracked")}  # torch itself makes up for these
        assert set(answer.missing_keys) == new.keys() - old.keys() - counters != set()
        assert all(torch.equal(new[name], old[name]) for name in old.keys() - unexpected)


def test_the_lsk_unit_keeps_names_and_maps_and_learns():
    model = timm.create_model("convnext_atto").eval()
    x = torch.randn(2, 3, 64, 40)
    old, before, maps = copy.deepcopy(model.state_dict()), model(x), feature_shapes(model, x)
    depth = len(model.stages[2].blocks)
    example.add_lsk(model, stage=2)
    assert feature_shapes(model, x) == maps

    answer = model.load_state_dict(old, strict=False)
    added = dict(model.stages[2].blocks[depth].named_parameters())
    assert answer.unexpected_keys == []
    assert set(answer.missing_keys) == {f"stages.2.blocks.{depth}.{name}" for name in added}

    after = model(x)
    assert not torch.equal(after, before)
    after.square().sum().backward()
    for name, parameter in added.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("magnitude", [1, 100])
def test_what_the_lsk_unit_adds_begins_small_however_large_the_map(magnitude):
    x = magnitude * torch.randn(2, 16, 9, 8)
    added = example.ScaledLSK(16)(x) - x
    assert 0.005 < added.square().mean().sqrt() < 0.02


def feature_shapes(model, x):
    return [feature_map.shape for feature_map in model.forward_intermediates(x, intermediates_only=True)]
