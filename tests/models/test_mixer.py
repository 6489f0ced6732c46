import pytest
import torch
from networks import assert_drawn, assert_equals_published, on_meta
from timm.models.mlp_mixer import MlpMixer
from tools import slow
from torch import nn

import cifarblocks
import cifarblocks.models.mixer


@pytest.mark.parametrize(
    ("name", "image_size", "layout"),
    [
        slow("mlp_mixer_s16", 48, {"patch_size": 16, "embed_dim": 512}),
        ("mlp_mixer_tiny", 24, {"patch_size": 4, "embed_dim": 128, "mlp_ratio": (2.0, 4.0)}),
        ("mlp_mixer_cifar", 16, {"patch_size": 4, "embed_dim": 256}),
    ],
)
def test_equals_timm(name, image_size, layout):
    theirs = MlpMixer(num_classes=7, img_size=image_size, **layout)
    ours, theirs, x = assert_equals_published(name, theirs, "timm", (image_size,) * 2, image_size=image_size)
    (theirs_map,) = theirs.forward_intermediates(x, indices=1, intermediates_only=True)
    torch.testing.assert_close(ours.feature_maps(x)[0], theirs_map, rtol=1e-8, atol=1e-8)


def test_maps_of_images_that_are_not_square():
    model = cifarblocks.create_model("mlp_mixer_tiny", image_size=(8, 12)).eval()
    x = torch.randn(1, 3, 8, 12)
    (feature_map,) = model.feature_maps(x)
    assert feature_map.shape == (1, 128, 2, 3)
    assert torch.equal(feature_map.flatten(2).mT, model.forward_features(x))


def test_dropout_falls_on_the_layers():
    model = on_meta("mlp_mixer_tiny", dropout=0.3)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert rates.pop("head.dropout") == 0
    assert rates == {
        f"stages.0.{i}.{mlp}.{place}": 0.3 for i in range(8) for mlp in ("token_mlp", "channel_mlp") for place in (2, 4)
    }


def test_weights_have_the_variance_of_their_fan_in():
    model = cifarblocks.create_model("mlp_mixer_cifar")
    for layer, fan_in in ((model.stem[1], 48), (model.stages[0][0].channel_mlp[3], 1024), (model.head.classifier, 256)):
        assert_drawn(layer.weight, fan_in**-0.5)
        assert not layer.bias.any()
