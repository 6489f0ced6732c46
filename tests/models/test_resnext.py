import pytest
import torch
import torch.nn.functional as F
from networks import assert_equals_published
from references import randomise_by_fan_in
from tools import slow
from torch import nn
from torchvision.models import resnet as reference

import cifarblocks
import cifarblocks.models.resnext


@pytest.mark.parametrize(
    ("name", "groups", "width"),
    [("resnext_29_32x4d", 32, 4), slow("resnext_29_8x64d", 8, 64)],
)
def test_equals_torchvision_without_its_last_stage_and_with_a_small_stem(name, groups, width):
    theirs = reference.ResNet(reference.Bottleneck, [3, 3, 3, 1], groups=groups, width_per_group=width)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = theirs.layer4 = nn.Identity()
    theirs.fc = nn.Linear(1024, 7)
    assert_equals_published(name, theirs, "torchvision", (16, 10))


class Reference:
    """The network with dropout, from its state and torch's functions alone."""

    def __init__(self, state):
        self.state = state

    def conv_norm(self, name, x, stride=1, padding=0, groups=1):
        x = F.conv2d(x, self.state[f"{name}.0.weight"], self.state[f"{name}.0.bias"], stride, padding, 1, groups)
        mean, variance = (self.state[f"{name}.1.running_{statistic}"] for statistic in ("mean", "var"))
        return F.batch_norm(x, mean, variance, self.state[f"{name}.1.weight"], self.state[f"{name}.1.bias"])

    def block(self, name, x, stride):
        groups = self.state[f"{name}.conv.0.weight"].shape[0] // 32
        y = F.relu(self.conv_norm(f"{name}.reduce", x))
        y = F.relu(self.conv_norm(f"{name}.conv", y, stride, 1, groups))
        y = self.conv_norm(f"{name}.expand", y)
        return F.relu(y + (x if stride == 1 else self.conv_norm(f"{name}.shortcut", x, stride)))

    def __call__(self, x, stages):
        x = F.max_pool2d(F.relu(self.conv_norm("stem", x, 2, 3)), 3, 2, 1)
        x = self.block("stages.0.2", self.block("stages.0.0", x, 1), 1)
        for stage in range(1, stages):
            x = self.block(f"stages.{stage}.1", self.block(f"stages.{stage}.0", x, 2), 1)
        return F.linear(x.mean((2, 3)), self.state["head.classifier.weight"], self.state["head.classifier.bias"])


@torch.no_grad()
@pytest.mark.parametrize("stages", [3, slow(4), 5])
def test_the_network_with_dropout_equals_its_layout(stages):
    model = cifarblocks.create_model("resnext18_dropout", num_classes=5, stages=stages, image_size=64).double().eval()
    randomise_by_fan_in(model)
    x = torch.randn(2, 3, 64, 70, dtype=torch.float64)
    torch.testing.assert_close(model(x), Reference(model.state_dict())(x, stages), rtol=1e-10, atol=1e-10)


def rates(stage):
    return [child.p if isinstance(child, nn.Dropout) else None for child in stage]


def test_dropout_stands_after_the_first_block_and_at_the_end_of_each_stage():
    model = cifarblocks.create_model("resnext18_dropout", stages=4)
    assert [rates(stage) for stage in model.stages] == [[None, 0.2, None, 0.4], *[[None, None, 0.4]] * 3]
    assert model.head.dropout.p == 0
    model = cifarblocks.create_model("resnext18_dropout", dropout=0.0)
    assert [rates(stage) for stage in model.stages] == [[None, 0.0, None, 0.0], *[[None, None, 0.0]] * 2]
