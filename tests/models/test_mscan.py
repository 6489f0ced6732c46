import math

import pytest
import torch
import torch.nn.functional as F
from networks import assert_drawn, on_meta
from references import randomise_by_fan_in
from torch import Tensor, nn

import cifarblocks
import cifarblocks.models.mscan
from cifarblocks.blocks import LayerScale

# The whole network in torch functions, from the paper's figure 2 and table 2.


@torch.no_grad()
def random_model(name: str, **arguments) -> nn.Module:
    """By fan-in: attentions and gates square their input, and it must not overflow."""
    return randomise_by_fan_in(cifarblocks.create_model(name, num_classes=7, **arguments).double()).eval()


class Weights(dict[str, Tensor]):
    """A state dict that remembers which of its tensors were used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__({k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")})
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return super().__getitem__(name)


def conv(x: Tensor, w: Weights, name: str, stride: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    kernel = kernel[:, :, None, None] if kernel.ndim == 2 else kernel  # a linear layer for each pixel
    padding = [size // 2 for size in kernel.shape[-2:]]
    return F.conv2d(x, kernel, w[f"{name}.bias"], stride, padding, groups=x.shape[1] // kernel.shape[1])


def batch_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.batch_norm(x, *[w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")])


def layer_norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    x = x.movedim(1, -1)
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps).movedim(-1, 1)


def msca(x: Tensor, w: Weights, name: str) -> Tensor:
    a = conv(x, w, f"{name}.local")
    total = a
    for branch, size in enumerate((7, 11, 21)):
        assert w[f"{name}.strips.{branch}.0.weight"].shape[1:] == (1, 1, size)
        assert w[f"{name}.strips.{branch}.1.weight"].shape[1:] == (1, size, 1)
        total = total + conv(conv(a, w, f"{name}.strips.{branch}.0"), w, f"{name}.strips.{branch}.1")
    return conv(total, w, f"{name}.mix") * x


def block(x: Tensor, w: Weights, name: str, attention, ratio: int) -> Tensor:
    u = batch_norm(x, w, f"{name}.attention_norm")
    z = attention(F.gelu(conv(u, w, f"{name}.attention.branch.0")), w, f"{name}.attention.branch.2")
    z = conv(z, w, f"{name}.attention.branch.3") + u
    x = x + w[f"{name}.attention_scale.gamma"].view(-1, 1, 1) * z
    z = conv(batch_norm(x, w, f"{name}.mlp_norm"), w, f"{name}.mlp.0")
    assert z.shape[1] == ratio * x.shape[1]
    z = conv(F.gelu(conv(z, w, f"{name}.mlp.1")), w, f"{name}.mlp.4")
    return x + w[f"{name}.mlp_scale.gamma"].view(-1, 1, 1) * z


def stages_and_head(x: Tensor, w: Weights, attention, eps: float, strides) -> Tensor:
    """Everything after the stem, of the size T; the skeleton that SegNeXt and LSKNet share."""
    plan = zip((32, 64, 160, 256), (3, 3, 5, 2), (8, 8, 4, 4), strides, strict=True)
    for stage, (width, depth, ratio, stride) in enumerate(plan):
        first = 0
        if stage:
            x = batch_norm(conv(x, w, f"stages.{stage}.0.0", stride), w, f"stages.{stage}.0.1")
            first = 1
        assert x.shape[1] == width
        for place in range(first, first + depth):
            x = block(x, w, f"stages.{stage}.{place}", attention, ratio)
        x = layer_norm(x, w, f"stages.{stage}.{first + depth}", eps)
    return F.linear(x.mean((2, 3)), w["head.classifier.weight"], w["head.classifier.bias"])


def mscan_tiny(x: Tensor, w: Weights, stem_strides, strides) -> Tensor:
    x = F.gelu(batch_norm(conv(x, w, "stem.0.0", stem_strides[0]), w, "stem.0.1"))
    assert x.shape[1] == 16
    x = batch_norm(conv(x, w, "stem.2.0", stem_strides[1]), w, "stem.2.1")
    return stages_and_head(x, w, msca, 1e-5, strides)


@pytest.mark.parametrize(
    ("name", "stem_strides", "strides"),
    [("segnext_mscan_tiny", (2, 2), (1, 2, 2, 2)), ("segnext_mscan_tiny_cifar", (1, 2), (1, 2, 2, 1))],
)
def test_is_the_papers_network(name, stem_strides, strides):
    model = random_model(name)
    weights = Weights(model)
    x = torch.randn(2, 3, 45, 33, dtype=torch.float64)
    with torch.no_grad():
        expected = mscan_tiny(x, weights, stem_strides, strides)
        torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)
    assert weights.used == set(weights)


def test_each_size_has_the_papers_widths_depths_and_ratios():
    for name, widths, depths in [
        ("segnext_mscan_tiny", [32, 64, 160, 256], [3, 3, 5, 2]),
        ("segnext_mscan_small", [64, 128, 320, 512], [2, 2, 4, 2]),
        ("segnext_mscan_base", [64, 128, 320, 512], [3, 3, 12, 3]),
    ]:
        model = on_meta(name)
        assert [info.channels for info in model.feature_info] == widths
        blocks = [[block for block in stage if hasattr(block, "mlp")] for stage in model.stages]
        assert [len(stage) for stage in blocks] == depths
        ratios = [{block.mlp[0].out_channels // block.mlp[0].in_channels for block in stage} for stage in blocks]
        assert ratios == [{8}, {8}, {4}, {4}]


def test_maps_are_normalised_and_as_large_as_the_plan_says():
    for name, sizes in [("segnext_mscan_tiny", [8, 4, 2, 1]), ("segnext_mscan_tiny_cifar", [16, 8, 4, 4])]:
        maps = cifarblocks.create_model(name).eval().feature_maps(torch.randn(2, 3, 32, 32))
        assert [feature_map.shape[-1] for feature_map in maps] == sizes
        for feature_map in maps:
            torch.testing.assert_close(feature_map.mean(1), torch.zeros_like(feature_map[:, 0]), rtol=0, atol=1e-5)


def test_weights_are_drawn_as_the_authors_do():
    model = cifarblocks.create_model("segnext_mscan_tiny_cifar")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            expected = math.sqrt(2 * module.groups / (height * width * module.out_channels))
            if module.weight.numel() > 4000:
                assert_drawn(module.weight, expected)
            assert not module.bias.any()
        elif isinstance(module, LayerScale):
            assert (module.gamma == torch.tensor(0.01)).all()
    assert_drawn(model.head.classifier.weight, 0.02)
    assert not model.head.classifier.bias.any()
