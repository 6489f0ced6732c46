"""Features, the inputs of a frozen network's last layer: computed once for each image, and kept on disk.

The images are taken in chunks. A chunk's file has a name made of all that its content depends on: every weight of the
network, how it is built, how pixels become numbers, the precision, the versions, and the pixels themselves. So whatever
changes, the old file is not found; and what was interrupted goes on from the last whole chunk.
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
        key: a hash of all that the features depend on but the pixels.
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
    """Take the last layer away and freeze the rest, dropout and BatchNorm included; put it back at the end.

    Args:
        model: a classifier.
        built: its name, arguments and precision: networks of the same weights may still compute something else.
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
    """Return the features of some images, (n, features), from the disk where they are there.

    Args:
        backbone: what computes them.
        images: on the device.
        directory: where they are kept.
        name: of these images, for the progress bar.
        processes: this one.
        chunk: images in a file.
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
