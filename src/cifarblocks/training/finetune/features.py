"""Features, the inputs of a frozen network's last layer: computed once per image and cached on disk.

The images are taken in chunks. The name of a chunk's file is a hash of everything that its content depends on: weights,
arguments, normalisation, precision, versions and pixels. So after any change the old file is not found. An interrupted
computation continues after the last whole chunk.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifarblocks.models.classifier import Classifier
from cifarblocks.training.data.batches import Normalisation, evaluation_batches
from cifarblocks.training.data.cache import hash_tensors, read_cache, write_cache
from cifarblocks.training.data.datasets import Images
from cifarblocks.training.distributed import Processes
from cifarblocks.training.hardware import versions


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer, frozen.

    Attributes:
        model: the classifier, in eval mode, its last layer taken away.
        key: a hash of everything that the features depend on, except the pixels.
        normalise: what turns pixels into numbers.
        autocast: the precision to compute in.
    """

    model: nn.Module
    key: str
    normalise: Normalisation
    autocast: torch.autocast

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        """Compute (n, features), in the precision of the normalised pixels."""
        parts = []
        for batch, _ in evaluation_batches(images, self.normalise):
            with self.autocast:
                parts.append(self.model(batch).to(batch.dtype))
        return torch.cat(parts)


@contextmanager
def frozen(
    model: Classifier, built: dict[str, Any], normalise: Normalisation, autocast: torch.autocast
) -> Iterator[Backbone]:
    """Remove the last layer and freeze the rest, dropout and BatchNorm included; restore the layer at the end.

    Args:
        model: a classifier.
        built: its name, arguments and precision, because networks of the same weights may differ in them.
        normalise: what turns pixels into numbers.
        autocast: the precision to compute in.
    """
    classifier, model.head.classifier = model.head.classifier, nn.Identity()
    try:
        model.eval()
        parts = [
            built,
            hash_tensors(model.state_dict() | {"scale": normalise.scale, "offset": normalise.offset}),
            str(normalise.scale.dtype),
            normalise.scale.device.type,
            {name: version for name, version in versions().items() if name in ("cifarblocks", "torch")},
        ]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        yield Backbone(model, key, normalise, autocast)
    finally:
        model.head.classifier = classifier


def compute_features(
    backbone: Backbone, images: Images, directory: Path, name: str, processes: Processes, chunk: int = 2000
) -> Tensor:
    """Return the features of images, (n, features), from the cache if they are in it.

    Args:
        backbone: network that computes them.
        images: on the device.
        directory: folder of the cache.
        name: name of the images, for the progress bar.
        processes: this process.
        chunk: number of images per file.
    """
    chunks = torch.arange(len(images), device=images.labels.device).split(chunk)
    parts = []
    for indices in processes.progress(chunks, f"features of {name}", len(chunks)):
        part = images[indices]
        pixels = hash_tensors({"pixels": part.pixels})
        path = directory / f"{hashlib.sha256(f'{backbone.key} {pixels}'.encode()).hexdigest()[:32]}.safetensors"
        kept = read_cache(path, ["features"], "computing")
        if kept is None:
            kept = {"features": backbone(part)}
            write_cache(path, kept)
        parts.append(kept["features"].to(indices.device))
    return torch.cat(parts)


def mirrored(images: Images) -> Images:
    """Mirror each image."""
    return Images(images.pixels.flip(2), images.labels)
