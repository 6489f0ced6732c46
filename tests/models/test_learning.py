"""Every small network can memorise 64 images; one with a dead branch or a wrong residual cannot."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import NO_DROP_PATH

import cifarblocks
from cifarblocks.training.data.datasets import load_data

# Those made for small images that cost below 60 million multiply-adds.
SMALL = ["cnn", "eca_resnet_20", "ghost_resnet_20", "ghost_resnet_32", "ghostnet_100_cifar", "mlp", "resnet_20"]
SMALL += ["improved_resnet20_convnext", "resnet20_no_eca", "resnext18_dropout"]
SMALL += [*cifarblocks.list_models("ecanet20_*"), *cifarblocks.list_models("eca_resnet20_pos*")]


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
