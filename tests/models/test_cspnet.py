import dataclasses

import pytest
import timm
import torch
from references import randomise
from test_counts import on_meta
from timm.models import cspnet as reference
from torch import nn

import cifarblocks
import cifarblocks.models.cspnet


@torch.no_grad()
def assert_equals_timm(name, theirs, size):
    theirs = theirs.double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomise(module)
    ours = cifarblocks.create_model(name, num_classes=7).double().eval()
    cifarblocks.load_published(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["cspresnet50", "cspresnext50", "cspdarknet53"])
def test_equals_timm(name):
    assert_equals_timm(name, timm.create_model(name, num_classes=7), (50, 38))


@pytest.mark.parametrize(
    ("name", "stem_width", "widths"),
    [("cspresnet50_cifar", 64, (128, 256, 512, 1024)), ("cspresnet_nano_cifar", 32, (48, 96, 192, 384))],
)
def test_the_small_networks_equal_timm_with_a_small_stem(name, stem_width, widths):
    published = reference.model_cfgs["cspresnet50"]
    stages = dataclasses.replace(published.stages, out_chs=widths)
    stem = reference.CspStemCfg(out_chs=stem_width, kernel_size=3, stride=1)
    theirs = reference.CspNet(dataclasses.replace(published, stem=stem, stages=stages), num_classes=7)
    assert_equals_timm(name, theirs, (13, 10))


@pytest.mark.parametrize("name", ["cspresnet50", "cspresnext50", "cspdarknet53"])
def test_the_slope_is_timms(name):
    slopes = {module.negative_slope for module in on_meta(name).modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.01}


def test_a_stage_is_one_module_and_its_blocks_have_their_drop_path():
    model = on_meta("cspresnet50", drop_path=0.6)
    assert [len(stage) for stage in model.stages] == [1, 1, 1, 1]
    blocks = [block for stage in model.stages for block in stage[0].blocks]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.05 * place for place in range(13)])


@pytest.mark.parametrize("argument", ["stages", "stem", "widths", "depths"])
def test_an_argument_that_the_name_fixes_is_refused(argument):
    with pytest.raises(TypeError, match=argument):
        cifarblocks.create_model("cspresnet50", **{argument: 1})
