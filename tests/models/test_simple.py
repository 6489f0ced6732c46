import pytest
import torch
from torch import nn

import cifarblocks


def test_cnn_is_the_plain_network_of_its_docstring():
    ours = cifarblocks.create_model("cnn", num_classes=5, image_size=(16, 24)).eval()
    layers = []
    for c_in, c_out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(128 * 2 * 3, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 5)]
    theirs = nn.Sequential(*layers).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(ours(x), theirs(x))
    assert [module.p for module in ours.modules() if isinstance(module, nn.Dropout)] == [0.5]


def test_mlp_is_the_plain_network_of_its_docstring():
    ours = cifarblocks.create_model("mlp", num_classes=5).eval()
    theirs = nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 5)
    )
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_what_they_cannot_do_is_refused():
    with pytest.raises(ValueError, match="this network has no feature maps"):
        cifarblocks.create_model("mlp").feature_maps(torch.randn(1, 3, 32, 32))
    for name in ("mlp", "cnn"):
        with pytest.raises(ValueError, match=f"drop_path must be 0 for {name}, .* got 0.1"):
            cifarblocks.create_model(name, drop_path=0.1)
        with pytest.raises(ValueError, match="image_size is 32x32 and fixed .* got images of 32x40"):
            cifarblocks.create_model(name)(torch.randn(1, 3, 32, 40))
    with pytest.raises(ValueError, match="image_size must be at least 8 to be halved three times, got 7x32"):
        cifarblocks.create_model("cnn", image_size=(7, 32))
