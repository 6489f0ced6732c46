"""Every named classifier keeps the one contract."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import assert_every_parameter_learns
from torch import nn

import cifarblocks
from cifarblocks.blocks import DropPath
from cifarblocks.models.classifier import Classifier, FeatureInfo, build_stages, last_layer

NAMES = cifarblocks.list_models()
FIXED_SIZE = {"mlp", "cnn"}
NO_MAPS = {"mlp"}
NO_DROP_PATH = {"mlp", "cnn"}
LARGE = {"resnet_18", "resnet_34", "resnet_50"}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_at_other_sizes_batches_channels_and_classes(name):
    sizes = [(32, 32)] if name in FIXED_SIZE else [(32, 32), (48, 48), (19, 40)]
    for in_channels, num_classes in ((1, 7), (4, 1)):
        model = cifarblocks.create_model(name, num_classes=num_classes, in_channels=in_channels).eval()
        for h, w in sizes[: 3 if in_channels == 1 else 1]:
            assert model(torch.randn(1, in_channels, h, w)).shape == (1, num_classes)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_MAPS))
def test_feature_maps_are_what_feature_info_says(name):
    model = cifarblocks.create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    maps = model.feature_maps(x)
    assert len(maps) == len(model.feature_info) == len(model.stages)
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        assert feature_map.shape == (2, info.channels, 32 // info.stride, 32 // info.stride)
    assert torch.equal(maps[-1], model.forward_features(x))
    assert model.num_features == maps[-1].shape[1]
    assert torch.equal(model.forward_head(maps[-1]), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_replaces_the_last_layer_alone(name):
    model = cifarblocks.create_model(name, num_classes=5).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = model.forward_features(x)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert torch.equal(model.forward_features(x), features)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head.hidden_features)
    with pytest.raises(ValueError, match="num_classes must be at least 0, got -1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", sorted(set(NAMES) - LARGE))
def test_every_parameter_learns(name):
    model = cifarblocks.create_model(name, dropout=0.0).double().train()
    # A bias before BatchNorm has no effect, as the mean is taken away again.
    before_norm = frozenset(f"stages.{i}.0.0.bias" for i in range(3)) if name == "cnn" else frozenset()
    assert_every_parameter_learns(model, torch.randn(4, 3, 32, 32, dtype=torch.float64), before_norm)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_DROP_PATH))
def test_drop_path_grows_linearly_over_the_blocks(name):
    with torch.device("meta"):
        model = cifarblocks.create_model(name, drop_path=0.3)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert len(rates) >= len(model.stages)
    assert rates == pytest.approx([0.3 * i / (len(rates) - 1) for i in range(len(rates))])


@pytest.mark.parametrize("name", ["eca_resnet_20", "resnet_18", "mlp", "cnn"])
def test_dropout_and_drop_path_are_active_in_training_and_absent_in_eval(name):
    arguments = [{"dropout": 0.5}] + ([] if name in NO_DROP_PATH else [{"drop_path": 0.5}])
    x = torch.randn(4, 3, 32, 32)
    for chosen in arguments:
        model = cifarblocks.create_model(name, **chosen)
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("name", ["eca_resnet_20", "resnet_18", "mlp", "cnn"])
def test_gradient_checkpointing_changes_nothing_but_memory(name):
    model = cifarblocks.create_model(name, drop_path=0.0 if name in NO_DROP_PATH else 0.3).double().train()
    twin = copy.deepcopy(model)
    twin.set_gradient_checkpointing(True)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
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


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_states_and_precisions_agree(name):
    model = cifarblocks.create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    loaded = cifarblocks.create_model(name).eval()
    loaded.load_state_dict(model.state_dict())
    last = loaded.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(x)
    assert (autocast.float() - expected).norm() < 0.02 * expected.norm()
    pure = model.bfloat16()(x.bfloat16())
    assert (pure.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", NAMES)
def test_the_meta_device(name):
    with torch.device("meta"):
        assert cifarblocks.create_model(name)(torch.randn(1, 3, 32, 32)).device.type == "meta"


@pytest.mark.parametrize("name", ["eca_resnet_20", "mlp", "cnn"])
def test_compiles_and_exports_whole_with_any_batch(name):
    model = cifarblocks.create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    more = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(exported(more), model(more))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"image_size": (3, 32)}, "image_size must be at least 4, the stride of the last map, got 3x32"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1, got 1.0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
    ],
)
def test_refused_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        cifarblocks.create_model("resnet_20", **arguments)


@given(depths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_stages_have_their_depths_widths_strides_and_rates(depths):
    calls = []

    def block(c_in, c_out, stride, drop_path):
        calls.append((c_in, c_out, stride, drop_path))
        return nn.Identity()

    widths, strides = [10 * (i + 1) for i in range(len(depths))], [2] * len(depths)
    stages = build_stages(block, 5, widths, depths, strides, 0.5)
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
