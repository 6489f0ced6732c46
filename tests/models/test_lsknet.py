import pytest
import torch
import torch.nn.functional as F
from networks import on_meta
from test_mscan import Weights, batch_norm, conv, random_model, stages_and_head
from torch import Tensor

# The whole network in torch functions, from sections 3.1 to 3.3 of the paper.


def lsk(x: Tensor, w: Weights, name: str) -> Tensor:
    u1 = conv(x, w, f"{name}.small")
    large = w[f"{name}.large.weight"], w[f"{name}.large.bias"]
    u2 = F.conv2d(u1, *large, padding=9, dilation=3, groups=u1.shape[1])
    v1, v2 = conv(u1, w, f"{name}.reduce_small"), conv(u2, w, f"{name}.reduce_large")
    both = torch.stack([v1, v2], 1).flatten(1, 2)
    gates = conv(torch.stack([both.mean(1), both.max(1).values], 1), w, f"{name}.select").sigmoid()
    return x * conv(gates[:, :1] * v1 + gates[:, 1:] * v2, w, f"{name}.expand")


@pytest.mark.parametrize(
    ("name", "kernel_size", "stem_stride", "strides"),
    [("lsknet_tiny", 7, 4, (1, 2, 2, 2)), ("lsknet_tiny_cifar", 3, 2, (1, 2, 2, 1))],
)
def test_is_the_papers_network(name, kernel_size, stem_stride, strides):
    model = random_model(name)
    weights = Weights(model)
    assert weights["stem.0.weight"].shape == (32, 3, kernel_size, kernel_size)
    x = torch.randn(2, 3, 45, 33, dtype=torch.float64)
    with torch.no_grad():
        y = batch_norm(conv(x, weights, "stem.0", stem_stride), weights, "stem.1")
        expected = stages_and_head(y, weights, lsk, 1e-6, strides)
        torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)
    assert weights.used == set(weights)


def test_the_last_map_of_a_small_image_is_4_by_4():
    model = on_meta("lsknet_tiny_cifar")
    assert [m.shape[-1] for m in model.feature_maps(torch.empty(1, 3, 32, 32, device="meta"))] == [16, 8, 4, 4]
