import torch
from references import randomise
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


class TorchPatchLSTM(nn.Module):
    """The layout in torch's own layers."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(tokens, 128))
        self.patches = nn.Conv2d(3, 128, 2, stride=2)
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.lstm(y)[0][:, -1])


PATCH_LSTM = {
    "positions": "stem.3.positions",
    "patches": "stem.1",
    "lstm": "stages.0.0.lstm",
    "head.0": "head.hidden.0",
    "head.1": "head.hidden.1",
    "head.3": "head.classifier",
}


def test_patch_lstm_is_the_plain_network_of_its_docstring():
    theirs = randomise(TorchPatchLSTM(4 * 6)).double().eval()
    ours = cifarblocks.create_model("patch_lstm", num_classes=5, image_size=(8, 12)).double().eval()
    state = {}
    for name, tensor in theirs.state_dict().items():
        start = next(start for start in PATCH_LSTM if name.startswith(start))
        state[PATCH_LSTM[start] + name.removeprefix(start)] = tensor
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_patch_lstm_has_dropout_of_a_tenth_and_a_map_of_its_patches():
    model = cifarblocks.create_model("patch_lstm", image_size=(8, 12)).eval()
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.1, 0.1]
    assert model.stages[0][0].lstm.dropout == 0.1
    x = torch.randn(1, 3, 8, 12)
    (feature_map,) = model.feature_maps(x)
    assert feature_map.shape == (1, 512, 4, 6)
    assert torch.equal(feature_map.flatten(2).mT, model.forward_features(x))


def test_patch_lstm_runs_in_autocast_and_compiles_around_its_lstm():
    model = cifarblocks.create_model("patch_lstm", image_size=8).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(x).float() - expected).norm() < 0.02 * expected.norm()
