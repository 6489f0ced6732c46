"""Use trained weights: `load` a file, a run folder, or weights of the package by name, and predict."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, shown
from cifarblocks.checkpoints.own import Card, load_weights
from cifarblocks.pretrained import find_weights

ROUNDING = 1e-3  # tolerance of the range 0 to 1 of a floating-point image, which resizing may exceed
BATCH = 256  # images that `predict` runs at a time
TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")  # of an image as an array or a tensor
LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B: ITU-R 601-2, as in Pillow


class Prediction(NamedTuple):
    """Name of a class and its softmax probability, which is not calibrated."""

    label: str
    probability: float


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained classifier with its classes and preprocessing.

    Attributes:
        model: The classifier, in eval mode.
        card: Description of the weights: data, classes, normalisation and, where they are known, accuracy, recipe,
            licence and limits.
    """

    model: nn.Module
    card: Card

    def __repr__(self) -> str:
        top1 = "" if self.card.accuracy is None else f", top-1 {self.card.accuracy['top1']:.2f} %"
        return f"Trained({self.card.model}, {self.card.data}, {len(self.classes)} classes{top1})"

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    def preprocess(self, images: Any) -> Tensor:
        """Resize and normalise one or more images as in training.

        Every image is resized bilinearly to `card.image_size` without keeping its shape, as in training.

        Args:
            images: One image, or a sequence of images. A path or a PIL image needs Pillow and is turned upright. An
                array is (h, w), (h, w, c) or (n, h, w, c), a tensor (h, w), (c, h, w) or (n, c, h, w). Both are uint8,
                or floating-point from 0 to 1. c is 1, 3 or 4; the fourth channel, transparency, is dropped.

        Returns:
            A tensor (n, 3, h, w) with the device and the dtype of the model; (n, 1, h, w) for a network of grey images.

        Raises:
            ValueError: If an image cannot be read, or is of another shape or range.
            TypeError: If it is of another type.
            ModuleNotFoundError: If a path or PIL image is given without Pillow.
        """
        several = list(images) if isinstance(images, list | tuple) else [images]
        resized = [self._resize(image) for image in several]
        size = self.card.image_size
        pixels = (torch.cat(resized) if resized else torch.empty(0, 3, *size, device="cpu")).double()
        if self.card.channels == 1:
            pixels = (pixels * column(LUMA)).sum(1, keepdim=True)
        return ((pixels - column(self.card.mean)) / column(self.card.std)).to(next(self.model.parameters()))

    @torch.inference_mode()
    def predict(self, images: Any, top: int = 3) -> list[Any]:
        """Return the most probable classes of one or more images, the best first.

        The probabilities are the softmax of the logits. They are not calibrated.

        Args:
            images: As for `preprocess`.
            top: Number of classes to return for each image; all if there are fewer.

        Returns:
            A list of `Prediction(label, probability)` for one image; a list of such lists for a sequence or a batch.

        Raises:
            ValueError: If `top` is below 1, or an image cannot be used.
            TypeError: If an image is of another type.
            FloatingPointError: If a logit is not finite.

        >>> import cifarblocks
        >>> trained = cifarblocks.load("eca_resnet_20.digits")
        >>> [label for label, probability in trained.predict(torch.zeros(3, 32, 32), top=1)]
        ['1']
        """
        require_int(1, top=top)
        inputs = self.preprocess(images)
        logits = torch.cat([self.model(part) for part in inputs.split(BATCH)]).cpu().double()  # MPS has no float64
        if not logits.isfinite().all():
            raise FloatingPointError("the model gives numbers that are not finite for these images")
        best = logits.softmax(1).topk(min(top, len(self.classes)))
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        predictions = [
            [Prediction(self.classes[index], value) for value, index in zip(*row, strict=True)] for row in rows
        ]
        return predictions if is_several(images) else predictions[0]

    def _resize(self, image: Any) -> Tensor:
        """Return an image, or a batch, as (n, 3, h, w) of the card's size, from 0 to 1."""
        size = self.card.image_size
        if isinstance(image, str | Path) or is_pillow(image):
            images = import_images()
            is_path = isinstance(image, str | Path)
            opened = images.read_image(Path(os.path.expanduser(image))) if is_path else images.upright(image)
            return images.pixels_of(images.resize_rgb(opened, size)).permute(2, 0, 1).unsqueeze(0).float() / 255
        maps = as_maps(image)
        if maps.shape[2:] == size:
            return maps
        return F.interpolate(maps, size, mode="bilinear", antialias=True)


def load(path_or_name: str | Path, *, which: str = "last") -> Trained:
    """Load trained weights with their classes and preprocessing, in eval mode on the CPU.

    Nothing is unpickled and nothing is downloaded.

    Args:
        path_or_name: A weights file or run folder of `cifarblocks train` or `finetune`, or a name of `list_weights()`.
            A path that exists wins over a name. Also an ONNX file of `cifarblocks export`, which ONNX Runtime runs on
            the CPU; its card has mean 0 and std 1, because the graph normalises.
        which: Weights of a run folder: "last", "average" (with --ema) or "best".

    Raises:
        ValueError: If there is no such file or name, or the file is damaged or of another kind.
        TypeError: If `path_or_name` is neither a string nor a path.
        ModuleNotFoundError: If it is an ONNX file, and ONNX Runtime is not installed.

    >>> trained = load("eca_resnet_20.digits")
    >>> trained.classes
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    >>> len(trained.predict(torch.rand(5, 3, 32, 32)))
    5
    """
    path = find_weights(path_or_name, which)
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        raise ValueError(f"{path} cannot be loaded: torch.export may unpickle; give the weights, or an ONNX file")
    return Trained(*(load_onnx(path) if suffix == ".onnx" else load_weights(path)))


def load_onnx(path: Path) -> tuple[nn.Module, Card]:
    """Load an ONNX file, and import ONNX Runtime only for it."""
    try:
        from cifarblocks.checkpoints import onnx_files
    except ModuleNotFoundError as error:
        sentence = f"{path} needs ONNX Runtime: pip install 'cifarblocks[export]'"
        raise ModuleNotFoundError(sentence, name="onnxruntime") from error
    return onnx_files.load_onnx(path)


def column(values: Sequence[float]) -> Tensor:
    """Return one number per channel as (c, 1, 1) on the CPU, which broadcasts over images."""
    return torch.tensor(values, dtype=torch.float64, device="cpu").view(-1, 1, 1)


def import_images() -> ModuleType:
    """Import the module that reads image files, which needs Pillow."""
    try:
        from cifarblocks.checkpoints import images
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("image files and PIL images need Pillow: pip install pillow", name="PIL") from error
    return images


def is_several(images: Any) -> bool:
    """Return True for a sequence of images or a batch, whose predictions are a list of lists."""
    return isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4


def is_pillow(image: Any) -> bool:
    """Return True for a PIL image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def as_maps(image: Any) -> Tensor:
    """Return the pixels of an array or tensor, one image or a batch, as (n, 3, h, w) from 0 to 1.

    Raises:
        TypeError: If it is neither, or is neither uint8 nor floating-point, or is a tensor without data.
        ValueError: If it is of another shape, empty, or has numbers out of range.
    """
    is_array = not isinstance(image, Tensor)
    if is_array and not (hasattr(image, "__array_interface__") and hasattr(image, "dtype")):
        raise TypeError(f"image must be a path, a PIL image, an array or a tensor, got {shown(image)}")
    dtype = str(image.dtype).removeprefix("torch.")
    if dtype not in TYPES:
        raise TypeError(f"image must be uint8, or floating-point from 0 to 1, got {dtype}")
    if not is_array and (image.is_nested or image.is_meta or image.layout != torch.strided):
        raise TypeError(f"image must be a dense tensor with numbers in memory, got {shown(image)}")
    pixels = torch.as_tensor(image.copy(), device="cpu") if is_array else image  # a copy may be written to
    layout = "(h, w), (h, w, c) or (n, h, w, c)" if is_array else "(h, w), (c, h, w) or (n, c, h, w)"
    shape = tuple(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[..., None] if is_array else pixels[None]
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim == 4 and is_array:
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4) or 0 in pixels.shape[1:]:
        kind = "an array" if is_array else "a tensor"
        hint = permuting(shape, is_array=is_array)
        raise ValueError(f"image must be {layout} with c of 1, 3 or 4 as {kind}, got the shape {shape}{hint}")
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    elif not (pixels >= -ROUNDING).all() or not (pixels <= 1 + ROUNDING).all():
        least, most = pixels.min().item(), pixels.max().item()
        raise ValueError(f"image must be from 0 to 1 where it is floating-point, got {least:g} to {most:g}")
    channels = pixels[:, :3].to("cpu", torch.float32).clamp(0, 1)
    return channels.expand(-1, 3, -1, -1)


def permuting(shape: tuple[int, ...], *, is_array: bool) -> str:
    """Return advice for an image or a batch whose channels are where those of the other kind are; "" for any other.

    >>> permuting((3, 32, 48), is_array=True), permuting((2, 32, 48, 3), is_array=False), permuting((), is_array=False)
    ('; did you mean image.transpose(1, 2, 0)?', '; did you mean image.permute(0, 3, 1, 2)?', '')
    """
    place, call = (-3, "transpose") if is_array else (-1, "permute")
    orders = {3: (1, 2, 0), 4: (0, 2, 3, 1)} if is_array else {3: (2, 0, 1), 4: (0, 3, 1, 2)}
    if len(shape) not in orders or shape[place] not in (1, 3, 4):
        return ""
    return f"; did you mean image.{call}{orders[len(shape)]}?"
