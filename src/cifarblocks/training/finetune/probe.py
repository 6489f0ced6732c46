"""The last layer alone, trained on features that were computed once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarblocks.training.data.batches import Batch
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.evaluation import evaluate
from cifarblocks.training.finetune.features import Backbone, compute_features, frozen, mirrored
from cifarblocks.training.optim.groups import build_optimizer, set_learning_rate
from cifarblocks.training.run import Run, split
from cifarblocks.training.saving import check_finite


@dataclass(frozen=True)
class Features:
    """What the last layer sees of some images.

    Attributes:
        values: (views, n, features): of the images as they are and, if there is a second view, mirrored.
        labels: (n,)
    """

    values: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "Features":
        chosen = chosen.to(self.labels.device)
        return Features(self.values[:, chosen], self.labels[chosen])

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch in random order; each image is mirrored in every other epoch, as in `training.batches`."""
        n, device = len(self.labels), self.labels.device
        order = torch.randperm(n, generator=random_stream("order", seed, epoch)).to(device)
        starts = torch.rand(n, generator=random_stream("mirror", seed)).to(device)
        views = (((starts + epoch / 2) % 1 < 0.5) & (len(self.values) > 1)).long()
        for indices in order.split(batch_size)[: n // batch_size]:
            yield self.values[views[indices], indices], self.labels[indices]

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every image once, as it is."""
        yield self.values[0], self.labels


def read_features(run: Run) -> tuple[Features, Features | None, Features | None]:
    """What the last layer sees of the images to train on, to select with, and to test with, where there are such."""
    options = run.options
    built = {**run.arguments, "model": options.model, "precision": options.precision, "num_classes": None}
    with frozen(run.state.model, built, run.normalise, run.autocast) as backbone:
        train = _features(run, backbone, "training images", mirror=options.mirror)
        test = None if options.no_test else _features(run, backbone, "test images", mirror=False)
    labels = run.data.train.labels
    training, validation = split(Images(torch.arange(len(labels)), labels), options)  # in place of images, numbers
    return train[training.pixels], None if validation is None else train[validation.pixels], test


def _features(run: Run, backbone: Backbone, name: str, *, mirror: bool) -> Features:
    images = (run.data.test if name == "test images" else run.data.train).to(run.processes.device)
    directory = run.options.data_dir / "cache" / "features"
    views = [images, mirrored(images)] if mirror else [images]
    values = [compute_features(backbone, view, directory, name, run.processes) for view in views]
    return Features(torch.stack(values), images.labels)


def fit_head(run: Run, training: Features, validation: Features | None) -> Iterator[dict[str, Any]]:
    """Train the last layer, nothing else: the line of metrics.jsonl of each epoch."""
    options, state = run.options, run.state
    layer: nn.Module = state.model.head.classifier  # type: ignore[union-attr, assignment]
    optimizer = build_optimizer(options.optimizer, layer, options.weight_decay, options.eps)
    state.resumed = time.perf_counter()  # the features are not of the first epoch
    for epoch in range(options.epochs):
        for features, labels in training.training_batches(options.batch_size, options.seed, epoch):
            set_learning_rate(optimizer, run.learning_rate(epoch * run.steps + state.step))
            with run.autocast:
                logits = layer(features)
                loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="sum")
            (loss / options.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
            state.count(loss, logits, labels)
            state.step += 1
        if epoch + 1 == options.epochs or not state.sums[0].isfinite():
            check_finite(run)
        state.end_epoch(measure_head(run, layer, epoch, validation))
        yield state.history[-1]


def measure_head(run: Run, layer: nn.Module, epoch: int, validation: Features | None) -> dict[str, Any]:
    """What there is to say of an epoch, in the words of cifarblocks train."""
    loss, top1, images = run.state.sums.tolist()
    trained = run.state.elapsed()
    scores = validation and evaluate(layer, validation.evaluation_batches(), run.processes, run.autocast)
    return {
        "epoch": epoch + 1,
        "train_loss": loss / images,
        "train_top1": 100 * top1 / images,
        **{f"validation_{key}": scores and getattr(scores, key) for key in ("loss", "top1", "top5")},
        "learning_rate": run.learning_rate((epoch + 1) * run.steps - 1),
        "images_per_second": round(images / trained, 1),
        "waiting_share": 0.0,
        "seconds": round(run.state.elapsed(), 3),
    }
