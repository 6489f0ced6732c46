"""The learning rate of each step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to the final rate or the peak until the end.

    Rates are per 256 images of the global batch and grow with it: `lr` 0.2 is 0.8 for batches of 1,024.

    Attributes:
        epochs: Epochs of the run.
        steps: Steps of an epoch.
        batch_size: Images of a step, over all processes.
        lr: Peak rate per 256 images.
        final_lr: Rate per 256 images where the cosine ends.
        warmup_epochs: Epochs of the warm-up.
        shape: cosine or constant.
    """

    epochs: int
    steps: int
    batch_size: int
    lr: float
    final_lr: float = 0.0
    warmup_epochs: float = 0.0
    shape: str = "cosine"

    @property
    def peak(self) -> float:
        """Largest rate that a step takes."""
        return self.lr * self.batch_size / 256

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from the first one of the run.

        >>> schedule = Schedule(epochs=2, steps=4, batch_size=256, lr=1.0, warmup_epochs=1)
        >>> [round(schedule.rate(step), 3) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
        """
        warmup, total = round(self.warmup_epochs * self.steps), self.epochs * self.steps
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if self.shape == "constant":
            return self.peak
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        final = self.final_lr * self.batch_size / 256
        return final + (self.peak - final) * share
