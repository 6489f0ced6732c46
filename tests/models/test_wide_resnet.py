import pytest
import torch
import torch.nn.functional as F
from networks import assert_drawn, on_meta
from references import randomise_by_fan_in
from tools import slow
from torch import nn

import cifarblocks
import cifarblocks.models.wide_resnet
from cifarblocks.blocks import PreActBlock


class Reference:
    """Wide ResNet from its state and torch's functions alone."""

    def __init__(self, state):
        self.state = state

    def normalised(self, name, x):
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, mean, variance, self.state[f"{name}.weight"], self.state[f"{name}.bias"]))

    def block(self, name, x, stride):
        z = self.normalised(f"{name}.norm1", x)
        y = F.conv2d(z, self.state[f"{name}.conv1.weight"], None, stride, 1)
        y = F.conv2d(self.normalised(f"{name}.norm2", y), self.state[f"{name}.conv2.weight"], None, 1, 1)
        shortcut = self.state.get(f"{name}.shortcut.weight")
        return y + (x if shortcut is None else F.conv2d(z, shortcut, None, stride))

    def __call__(self, x, blocks):
        x = F.conv2d(x, self.state["stem.weight"], None, 1, 1)
        for stage, stride in enumerate((1, 2, 2)):
            for place in range(blocks):
                x = self.block(f"stages.{stage}.{place}", x, 1 if place else stride)
        x = self.normalised("head.before.0", x).mean((2, 3))
        return F.linear(x, self.state["head.classifier.weight"], self.state["head.classifier.bias"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "blocks"), [("wrn_16_4", 2), slow("wrn_28_10", 4)])
def test_equals_its_definition(name, blocks):
    model = cifarblocks.create_model(name, num_classes=7).double().eval()
    randomise_by_fan_in(model)
    x = torch.randn(2, 3, 12, 7, dtype=torch.float64)
    torch.testing.assert_close(model(x), Reference(model.state_dict())(x, blocks), rtol=1e-10, atol=1e-10)


def test_dropout_stands_between_the_convolutions_and_nowhere_else():
    model = on_meta("wrn_16_4", dropout=0.3)
    active = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p]
    blocks = [name for name, module in model.named_modules() if isinstance(module, PreActBlock)]
    assert active == [f"{name}.dropout" for name in blocks]
    assert len(blocks) == 6


def test_convolutions_are_drawn_as_the_authors_do():
    conv = cifarblocks.create_model("wrn_16_4").stages[2][0].conv1.weight  # 128 → 256 channels
    assert_drawn(conv, (2 / (256 * 9)) ** 0.5)
