"""The card of a weights file that tests share, and such a file."""

from dataclasses import replace
from pathlib import Path

import torch
from references import randomise_by_fan_in
from torch import nn

from cifarblocks import create_model
from cifarblocks.checkpoints.own import Card
from cifarblocks.training.run_folder.weights import save_weights

CARD = Card(
    model="eca_resnet_20",
    arguments={"num_classes": 2, "image_size": [6, 8]},
    classes=["dark", "light"],
    image_size=(6, 8),
    mean=[0.5] * 3,
    std=[0.25] * 3,
    precision="float32",
    data="shades",
    epoch=3,
)


def write_weights(path: Path, seed: int = 0, **changes: object) -> nn.Module:
    """Write random weights, by default for the shades, as a run would have, and return the network in eval mode."""
    card = replace(CARD, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = randomise_by_fan_in(create_model(card.model, **card.arguments)).eval()
    save_weights(path, model.state_dict(), card)
    return model
