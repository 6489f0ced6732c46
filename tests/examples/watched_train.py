"""Run examples/train.py in float32 and write to watched_RANK.pt the images scored, their logits and the learning rates.

The rounding of bfloat16 depends on how a batch is split over processes.
"""

import os
import runpy
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import cifarblocks


def main() -> None:
    images, scores, rates = [], [], []
    create_model, autocast = cifarblocks.create_model, torch.autocast

    def watch(model, inputs, logits):
        if not model.training:
            images.append(inputs[0])
            scores.append(logits)

    def create_watched_model(*names, **arguments):
        model = create_model(*names, **arguments)
        model.register_forward_hook(watch)
        return model

    cifarblocks.create_model = create_watched_model
    torch.autocast = lambda device, dtype, enabled: autocast(device, dtype, enabled=False)
    register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train.py"))
    torch.save((torch.cat(images), torch.cat(scores), rates), f"watched_{os.environ.get('RANK', 0)}.pt")


if __name__ == "__main__":
    main()
