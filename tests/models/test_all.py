"""Every named classifier keeps the one contract."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import FIXED_SIZE, NAMES, NO_DROP_PATH, NO_MAPS, build, give_branches_weight, images, on_meta, small, walk
from properties import dead
from refusals import refuses
from torch import nn

import cifarblocks
from cifarblocks.blocks import DropPath
from cifarblocks.models.classifier import Classifier, FeatureInfo, last_layer
from cifarblocks.models.stages import build_stages


def test_every_family_is_imported_by_the_package():
    folder = Path(cifarblocks.models.__file__).parent
    for file in folder.glob("*.py"):
        if "\n@registered_with" in file.read_text():
            line = f"from cifarblocks.models.{file.stem} import *"
            assert line in (folder / "__init__.py").read_text(), f"models/__init__.py lacks: {line}"


@pytest.mark.parametrize("name", walk())
def test_shapes_at_other_sizes_batches_channels_and_classes(name):
    for in_channels, num_classes in ((1, 7), (4, 1)):
        model = small(name, num_classes=num_classes, in_channels=in_channels).eval()
        h, w = model.image_size
        sizes = [(h, w)] if name in FIXED_SIZE or in_channels == 4 else [(h, w), (h + 16, w + 16), (h + 3, 2 * w)]
        for size in sizes:
            assert model(torch.randn(1, in_channels, *size)).shape == (1, num_classes)


@pytest.mark.parametrize("name", sorted(FIXED_SIZE))
def test_networks_of_one_image_size_refuse_others(name):
    model = on_meta(name)
    h, w = model.image_size
    with refuses(ValueError, "image_size", f"{h}x{w}", f"{h}x{w + 16}"):
        model(torch.randn(1, 3, h, w + 16, device="meta"))


@pytest.mark.parametrize("name", walk())
def test_empty_batches_pass(name):
    model = small(name)
    for training in (True, False):
        assert model.train(training)(images(model, 0, torch.float32)).shape == (0, 100)


@pytest.mark.parametrize("name", walk(without=NO_MAPS))
def test_feature_maps_are_what_feature_info_says(name):
    model = small(name).eval()
    x = images(model, dtype=torch.float32)
    maps = model.feature_maps(x)
    assert len(maps) == len(model.feature_info) == len(model.stages)
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        h, w = model.image_size
        assert feature_map.shape == (2, info.channels, h // info.stride, w // info.stride)
    features = model.forward_features(x)
    assert torch.equal(maps[-1], model.as_map(features))
    assert model.num_features == maps[-1].shape[1]
    assert torch.equal(model.forward_head(features), model(x))


@pytest.mark.parametrize("name", walk())
def test_the_last_layer_is_found_as_in_timm(name):
    model = small(name, num_classes=5).eval()
    assert name in repr(model).splitlines()[1]
    x = images(model, dtype=torch.float32)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head.hidden_features)
    assert torch.equal(model.get_classifier()(pooled), model(x))
    assert model.num_classes == 5
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), pooled)
    assert model.feature_info.channels() == [info.channels for info in model.feature_info]
    assert model.feature_info.reduction() == [info.stride for info in model.feature_info]


@pytest.mark.parametrize("name", walk())
def test_reset_classifier_replaces_the_last_layer_alone(name):
    model = small(name, num_classes=5).eval()
    x = images(model, dtype=torch.float32)
    features = model.forward_features(x)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert torch.equal(model.forward_features(x), features)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head.hidden_features)
    with refuses(ValueError, "num_classes", -1):
        model.reset_classifier(-1)


# Parameters that can have no effect on the classes, whatever their values.
WITHOUT_EFFECT = {
    # The same for all channels of a token, and only LayerNorms over the channels come after it.
    **{name: {f"stages.0.{i}.token_mlp.3.bias" for i in range(12)} for name in cifarblocks.list_models("mlp_mixer_*")},
    # The class is told from the last token, which is the first that the reverse direction reads.
    "patch_lstm": {"stages.0.0.lstm.weight_hh_l1_reverse"},
}


@pytest.mark.parametrize("name", walk())
def test_every_parameter_learns(name):
    model = small(name, dropout=0.0).double().train()
    with torch.no_grad():  # first values such as 0.02, 1 and 0 hide what a parameter does; these keep a signal's size
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    give_branches_weight(model)
    x = images(model, 4)
    without_effect = dead(model, x) - WITHOUT_EFFECT.get(name, set())
    # BatchNorm takes the mean away, and with it the biases before it, which have an effect when it does not.
    assert all(parameter.endswith("bias") for parameter in without_effect), without_effect
    if without_effect:
        assert not without_effect & dead(model.eval(), x)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_DROP_PATH))
def test_drop_path_grows_linearly_over_the_blocks(name):
    rates = [module.rate for module in on_meta(name, drop_path=0.3).modules() if isinstance(module, DropPath)]
    assert len(rates) >= 2, f"{name} has {len(rates)} DropPath: pass its blocks drop_path, or add it to NO_DROP_PATH"
    expected = [0.3 * i / (len(rates) - 1) for i in range(len(rates))]
    assert rates == pytest.approx(expected), (
        f"{name}: models/stages.py has rates that grow linearly from block to block"
    )


@pytest.mark.parametrize("name", sorted(NO_DROP_PATH))
def test_networks_without_residual_branches_refuse_drop_path(name):
    with refuses(ValueError, "drop_path", name, 0.1):  # by refuse_drop_path of models/simple.py
        on_meta(name, drop_path=0.1)


@pytest.mark.parametrize("name", walk())
def test_dropout_and_drop_path_are_active_in_training_and_absent_in_eval(name):
    for chosen in [{"dropout": 0.5}] + ([] if name in NO_DROP_PATH else [{"drop_path": 0.5, "dropout": 0.0}]):
        model = give_branches_weight(small(name, **chosen))
        x = images(model, 4, torch.float32)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # so that eval normalises as training did, and nothing overflows
        repeated, in_eval = [torch.equal(model.train(training)(x), model(x)) for training in (True, False)]
        assert not repeated, f"{name} does not use {chosen} in training"
        assert in_eval, f"{name} is random in eval mode with {chosen}"


@pytest.mark.parametrize("name", walk(without=NO_MAPS))
def test_gradient_checkpointing_changes_nothing_but_memory(name):
    model = small(name, **({} if name in NO_DROP_PATH else {"drop_path": 0.3})).double().train()
    twin = copy.deepcopy(model)
    twin.set_gradient_checkpointing(True)
    x = images(model, 4)
    for each in (model, twin):
        torch.manual_seed(0)
        each(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_gradient_checkpointing_computes_the_blocks_again():
    model = cifarblocks.create_model("resnet_20").train()
    calls = []
    model.stages[1][0].conv1.register_forward_hook(lambda *_: calls.append(1))
    model.set_gradient_checkpointing(True)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert len(calls) == 2
    model.eval()(torch.randn(2, 3, 8, 8)).sum().backward()
    assert len(calls) == 3


def test_a_network_without_stages_has_no_maps_no_backbone_and_no_gradient_checkpointing():
    model = build("mlp")
    model.set_gradient_checkpointing(False)
    for refused in (
        lambda: model.feature_maps(torch.randn(1, 3, 32, 32)),
        lambda: build("mlp", features_only=True),
        model.set_gradient_checkpointing,
    ):
        with refuses(ValueError, "network"):
            refused()


@pytest.mark.parametrize("name", walk())
def test_channels_last_states_and_precisions_agree(name):
    model, loaded = small(name).double().eval(), small(name).double().eval()
    x = images(model)
    expected = model(x)
    loaded.load_state_dict(model.state_dict())
    last = loaded.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model.float()(x.float()).float()
    assert (autocast - expected).norm() < 0.02 * expected.norm()
    pure = model.bfloat16()(x.bfloat16()).float()
    assert (pure - autocast).norm() < 0.03 * autocast.norm()


@pytest.mark.parametrize("name", walk())
def test_the_meta_device(name):
    """Counting the multiply-adds runs the others there."""
    model = small(name, device="meta").eval()
    assert model(images(model, dtype=torch.float32).to("meta")).device.type == "meta"


@given(depths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_stages_have_their_depths_widths_strides_and_rates(depths):
    calls = []

    def block(c_in, c_out, stride, drop_path):
        calls.append((c_in, c_out, stride, drop_path))
        return nn.Identity()

    widths, strides = [10 * (i + 1) for i in range(len(depths))], [2] * len(depths)
    stages = build_stages([block] * len(depths), 5, widths, depths, strides, 0.5)
    assert [len(stage) for stage in stages] == depths
    total = sum(depths)
    expected = []
    channels = 5
    for width, depth in zip(widths, depths, strict=True):
        for position in range(depth):
            expected.append((channels, width, 1 if position else 2))
            channels = width
    assert [call[:3] for call in calls] == expected
    assert [call[3] for call in calls] == pytest.approx([0.5 * i / max(total - 1, 1) for i in range(total)])


def test_a_classifier_is_put_together_from_any_parts():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden_features, self.classifier = 4, last_layer(4, 2)

        def forward(self, x):
            return self.classifier(x.mean((2, 3)))

    stage = nn.Sequential(nn.Conv2d(3, 4, 3))
    model = Classifier(nn.Identity(), [stage], Head(), [FeatureInfo(4, 1)], image_size=(7, 9))
    assert model(torch.randn(2, 3, 7, 9)).shape == (2, 2)
    assert model.image_size == (7, 9)
