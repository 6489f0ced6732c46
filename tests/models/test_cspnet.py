import dataclasses

import pytest
import timm
from networks import assert_equals_published, on_meta
from timm.models import cspnet as reference
from tools import slow


@pytest.mark.parametrize("name", [slow("cspresnet50"), "cspresnext50", "cspdarknet53"])
def test_equals_timm(name):
    assert_equals_published(name, timm.create_model(name, num_classes=7), "timm", (37, 33))


@pytest.mark.parametrize(
    ("name", "stem_width", "widths"),
    [
        slow("cspresnet50_cifar", 64, (128, 256, 512, 1024)),
        ("cspresnet_nano_cifar", 32, (48, 96, 192, 384)),
    ],
)
def test_the_small_networks_equal_timm_with_a_small_stem(name, stem_width, widths):
    published = reference.model_cfgs["cspresnet50"]
    stages = dataclasses.replace(published.stages, out_chs=widths)
    stem = reference.CspStemCfg(out_chs=stem_width, kernel_size=3, stride=1)
    theirs = reference.CspNet(dataclasses.replace(published, stem=stem, stages=stages), num_classes=7)
    assert_equals_published(name, theirs, "timm", (13, 10))


def test_a_stage_is_one_module_and_its_blocks_have_their_drop_path():
    model = on_meta("cspresnet50", drop_path=0.6)
    assert [len(stage) for stage in model.stages] == [1, 1, 1, 1]
    blocks = [block for stage in model.stages for block in stage[0].blocks]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.05 * place for place in range(13)])
