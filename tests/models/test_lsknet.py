import pytest
import torch
from networks import on_meta
from test_lsk import unit
from test_mscan import assert_equals_plan, conv_norm
from tools import slow


@pytest.mark.parametrize(
    ("name", "kernel_size", "stem_stride", "strides"),
    [slow("lsknet_tiny", 7, 4, (1, 2, 2, 2)), ("lsknet_tiny_cifar", 3, 2, (1, 2, 2, 1))],
)
def test_is_the_papers_network(name, kernel_size, stem_stride, strides):
    def stem(x, layers):
        assert layers[0].weight.shape == (32, 3, kernel_size, kernel_size)
        return conv_norm(x, layers, stem_stride)

    assert_equals_plan(name, stem, unit, 1e-6, strides)


def test_the_last_map_of_a_small_image_is_4_by_4():
    model = on_meta("lsknet_tiny_cifar")
    assert [m.shape[-1] for m in model.feature_maps(torch.empty(1, 3, 32, 32, device="meta"))] == [16, 8, 4, 4]
