"""The last layer alone, trained on features that were computed once: a run with other batches."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cifarblocks.training.data.batches import Batch, ImageBatches
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.finetune.features import compute_features, frozen, mirrored
from cifarblocks.training.options.declared import Options
from cifarblocks.training.run import Build, Run, build_state, prepare, split


@dataclass(frozen=True)
class Features:
    """Inputs of the last layer for some images.

    Attributes:
        values: (views, n, features): of the images as they are and, if there is a second view, mirrored.
        labels: (n,)
    """

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor) -> "Features":
        chosen = chosen.to(self.labels.device)
        return Features(self.values[:, chosen], self.labels[chosen])


@dataclass(frozen=True)
class FeatureBatches:
    """All batches of a run, made of features.

    Attributes:
        training: Features to train on.
        validation: Features to select with; none where all are trained on.
        test: Features to test with; none with --no-test.
        batch_size: Images of a batch.
        seed: Of the run.
    """

    training: Features
    validation: Features
    test: Features
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Whole batches in an epoch."""
        return len(self.training) // self.batch_size

    def of_epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the training batches of an epoch; each image is mirrored in every other epoch, as `ImageBatches` do."""
        values, labels = self.training.values, self.training.labels
        order = torch.randperm(len(labels), generator=random_stream("order", self.seed, epoch)).to(labels.device)
        starts = torch.rand(len(labels), generator=random_stream("mirror", self.seed)).to(labels.device)
        views = (((starts + epoch / 2) % 1 < 0.5) & (len(values) > 1)).long()
        for indices in order.split(self.batch_size)[first_step : self.steps]:
            yield values[views[indices], indices], labels[indices]

    def of_images(self, images: Features) -> Iterator[Batch]:
        """Yield the features of some images as they are, all at once."""
        yield images.values[0], images.labels


def last_layer(model: nn.Module) -> nn.Module:
    """Return the last layer of a classifier."""
    return model.head.classifier  # type: ignore[union-attr, return-value]


def prepare_frozen(options: Options, processes: Processes, build: Build) -> Run:
    """Prepare a run as `run.prepare` does, and freeze all but its last layer.

    Raises:
        UserError: If there are several processes, or these options cannot work with these data.
    """
    if processes.world_size > 1:
        raise UserError(f"--freeze trains one layer in one process, got {processes.world_size} of torchrun")
    return freeze(prepare(options, processes, build))


def freeze(run: Run) -> Run:
    """Return the run with features in place of images, and the last layer alone to train."""
    assert isinstance(run.batches, ImageBatches)
    options, data, model, began = run.options, run.data, run.state.model, time.perf_counter()
    directory = options.data_dir / "cache" / "features"
    built = {**run.arguments, "model": options.model, "precision": options.precision, "num_classes": None}
    with frozen(model, built, run.batches.normalise, run.autocast) as backbone:

        def features(images: Images, name: str, *, mirror: bool) -> Features:
            images = images.to(run.processes.device)
            views = [images, mirrored(images)] if mirror else [images]
            values = [compute_features(backbone, view, directory, name, run.processes) for view in views]
            return Features(torch.stack(values), images.labels)

        train = features(data.train, "training images", mirror=bool(options.mirror))
        test = train[torch.arange(0)] if options.no_test else features(data.test, "test images", mirror=False)
    numbers = Images(torch.arange(len(data.train)), data.train.labels)  # in place of images
    training, validation = split(numbers, final=options.final, share=options.share)
    print(f"features: {train.values.shape[-1]} an image, in {time.perf_counter() - began:.1f} s", flush=True)
    parts = (train[training.pixels], train[validation.pixels], test)
    return replace(
        run,
        batches=FeatureBatches(*parts, options.batch_size, options.seed),
        state=build_state(options, model, last_layer(model)),
        trained=last_layer,
    )
