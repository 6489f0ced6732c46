"""Training of the last layer alone, on features computed once: a run with other batches."""

import time
from dataclasses import replace

import torch
from torch import nn

from cifarblocks.models.classifier import Classifier
from cifarblocks.training.data.batches import FeatureBatches, Features, ImageBatches
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.finetune.features import compute_features, frozen, mirrored
from cifarblocks.training.options.declared import Options
from cifarblocks.training.run import Build, Run, build_state, prepare, split


def last_layer(model: Classifier) -> nn.Module:
    """Return the last layer of a classifier."""
    return model.head.classifier


def prepare_frozen(options: Options, processes: Processes, build: Build) -> Run:
    """Prepare a run as `run.prepare` does, and freeze all but its last layer.

    Raises:
        UserError: If there are several processes, or the options cannot work with the data.
    """
    if processes.world_size > 1:
        raise UserError(f"--freeze trains one layer in one process, got {processes.world_size} of torchrun")
    return freeze(prepare(options, processes, build))


def freeze(run: Run) -> Run:
    """Return the run with features in place of images, which trains only the last layer."""
    assert isinstance(run.batches, ImageBatches)
    options, data, model, began = run.options, run.data, run.state.model, time.perf_counter()
    directory = options.data_dir / "cache" / "features"
    built = {**run.card.arguments, "model": run.card.model, "precision": run.card.precision, "num_classes": None}
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
