"""Put blocks into existing models: three functions to copy, and the cost of each change.

    python examples/blocks_in_your_model.py     # 10 seconds on one CPU core; nothing is downloaded

ECA goes into every block of a torchvision ResNet, and GhostModules replace its 3×3 convolutions. An LSK unit goes into
a stage of a timm ConvNeXt. It prints a table for each model before and after the change: parameters, multiply-adds, and
tensors of an old checkpoint that can still be loaded. It also prints the loss of a random batch before and after one
training step. It needs torchvision and timm (`pip install torchvision timm`); without timm the ConvNeXt is left out.

The functions change a model in place. Call them on the CPU, before `.to(device)` and before the optimizer is made. The
other tensors keep their names and values, so pretrained weights can be loaded before or after:

    model = resnet18(weights="DEFAULT")
    add_eca(model)

    model = resnet18()
    add_eca(model)
    print(model.load_state_dict(checkpoint, strict=False))  # missing: the new tensors; unexpected: the replaced ones
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, resnet18

from cifarblocks import count_macs
from cifarblocks.blocks import ECA, GhostModule, LayerNorm2d, LayerScale, LSKUnit

IMAGES = (8, 3, 64, 64)  # one random batch


def residual_blocks(resnet: ResNet) -> list[BasicBlock | Bottleneck]:
    """Return the blocks of a torchvision ResNet, ResNeXt or Wide ResNet."""
    return [module for module in resnet.modules() if isinstance(module, (BasicBlock, Bottleneck))]


def add_eca(resnet: ResNet) -> None:
    """Add ECA to every residual branch after its last BatchNorm, before the addition, as in ECA-Net.

    A new ECA scales by about one half, so fine-tune a pretrained network before you score it.
    """
    for block in residual_blocks(resnet):
        norm = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        norm.eca = HookedECA(norm.num_features)
        # nn.Sequential(norm, ECA(...)) would rename the norm's tensors; a hook does not. But a norm that is replaced
        # later loses its hook: call SyncBatchNorm.convert_sync_batchnorm before this, not after.
        norm.register_forward_hook(norm.eca.gate)


class HookedECA(ECA):
    """An ECA that scales the output of another module, by a forward hook of that module.

    The hook is a method of a part of the model. So a copied or pickled model has its own ECA, and `count_macs` counts
    it, which ignores other hooks.
    """

    def gate(self, _module: nn.Module, _inputs: object, y: Tensor) -> Tensor:
        """Return the scaled output."""
        return self(y)


def use_ghost_modules(resnet: ResNet) -> None:
    """Replace every 3×3 convolution and its BatchNorm by a GhostModule of the same channels and stride.

    The module has its own BatchNorm and activation, so the old norm is removed, with any ECA on it. The block's ReLU
    after it stays, because it does not change a rectified map. The last convolution before the addition has no ReLU, so
    its GhostModule gets none: the branch could otherwise only add. Convolutions with groups or dilation do not change.
    """
    for block in residual_blocks(resnet):
        for number in (1, 2):
            conv = getattr(block, f"conv{number}")
            if conv.kernel_size == (3, 3) and conv.groups == 1 and conv.dilation == (1, 1):
                last = isinstance(block, BasicBlock) and number == 2
                activation = nn.Identity if last else nn.ReLU
                new = GhostModule(conv.in_channels, conv.out_channels, 3, stride=conv.stride[0], activation=activation)
                setattr(block, f"conv{number}", new)
                setattr(block, f"bn{number}", nn.Identity())


def add_lsk(convnext: Any, stage: int) -> None:
    """Append an LSK unit to a stage of a timm ConvNeXt, after its blocks, so that their numbers do not change."""
    channels = convnext.feature_info[stage]["num_chs"]
    convnext.stages[stage].blocks.append(ScaledLSK(channels))


class ScaledLSK(nn.Module):
    """An LSK unit with a norm before and a layer scale after it, as in LSKNet: it begins as a small change."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.unit = LSKUnit(channels)
        self.scale = LayerScale(channels, 1e-2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.unit(self.norm(x)))


def try_out(name: str, model: nn.Module, change_name: str, change: Callable[[Any], None]) -> None:
    """Print the row of a model, and the row of the changed model with its loss before and after a step."""
    old = model.state_dict()
    print(f"{name:28}{costs(model)}")
    change(model)
    kept = len(old) - len(model.load_state_dict(old, strict=False).unexpected_keys)
    before, after = losses_of_a_step(model)
    print(f"  + {change_name:24}{costs(model)}{kept:6} of {len(old)}{before:9.3f} → {after:.3f}")


def costs(model: nn.Module) -> str:
    """Return the columns of parameters and of multiply-adds of one image."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters:12,}{count_macs(model, (1, *IMAGES[1:])):15,}"


def losses_of_a_step(model: nn.Module) -> tuple[float, float]:
    """Take one training step in channels_last; return the loss of the batch before and after it."""
    model.train().to(memory_format=torch.channels_last)
    images = torch.randn(IMAGES).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (len(images),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    optimizer.step()
    return before.item(), F.cross_entropy(model(images), labels).item()


def main() -> None:
    """Try out the three changes."""
    torch.manual_seed(0)
    print("one 64×64 image; one multiplication with its addition counts as 1 multiply-add\n")
    print(f"{'':28}{'parameters':>12}{'multiply-adds':>15}{'tensors kept':>14}{'loss → after a step':>21}")
    try_out("torchvision resnet18", resnet18(weights=None), "ECA in every block", add_eca)
    try_out("torchvision resnet18", resnet18(weights=None), "GhostModules for 3×3", use_ghost_modules)
    try:
        import timm
    except ModuleNotFoundError:
        print("timm is not installed, so the ConvNeXt is left out: pip install timm")
        return
    convnext = timm.create_model("convnext_atto", pretrained=False)
    try_out("timm convnext_atto", convnext, "LSK in the second stage", lambda model: add_lsk(model, stage=1))


if __name__ == "__main__":
    main()
