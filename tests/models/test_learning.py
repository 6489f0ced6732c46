"""Every small network learns 64 images by heart: dead branches and wrong residuals do not."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import NO_DROP_PATH, PAPER_SIZE

import cifarblocks
from cifarblocks.training.data.datasets import load_data


def is_small(name: str) -> bool:
    """Made for small images, and cheap."""
    with torch.device("meta"):
        model = cifarblocks.create_model(name)
    made_for_32 = name not in PAPER_SIZE and all(info.stride < 32 for info in model.feature_info)
    return made_for_32 and cifarblocks.count_macs(model) < 60e6


SMALL = ["cnn", "eca_resnet_20", "ghost_resnet_20", "ghost_resnet_32", "ghostnet_100_cifar", "mlp", "resnet_20"]
SMALL += ["improved_resnet20_convnext", "resnet20_no_eca", "resnext18_dropout"]
SMALL += [*cifarblocks.list_models("ecanet20_*"), *cifarblocks.list_models("eca_resnet20_pos*")]


@pytest.mark.slow
def test_no_small_network_is_left_out():
    assert sorted(SMALL) == [name for name in cifarblocks.list_models() if is_small(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_64_digits_are_learnt_by_heart(name):
    train = load_data("digits", Path()).train
    images = train.pixels[:64].permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = train.labels[:64]
    arguments = {} if name in NO_DROP_PATH else {"drop_path": 0.0}
    model = cifarblocks.create_model(name, num_classes=10, dropout=0.0, **arguments).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 20)
        logits = model(images)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (logits.argmax(1) == labels).all():
            return
    pytest.fail(f"{(logits.argmax(1) == labels).sum()} of 64 after 300 steps")
