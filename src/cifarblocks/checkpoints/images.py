"""Read image files; the one file of the core that needs Pillow, and `import cifarblocks` does not import it."""

from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifarblocks.checkpoints.files import reading

# Pillow's other decoders are not needed, and one of them starts a program: EPS, Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def read_image(path: Path) -> Image.Image:
    """Decode an image file and turn it by its EXIF orientation.

    Raises:
        ValueError: If it cannot be read or decoded, or its values do not have 8 bits.
    """
    with reading(path, "read as an image"):
        try:
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
        except UnidentifiedImageError:
            raise ValueError(f"it is none of {', '.join(FORMATS)}") from None
    if turned.mode.startswith(("I", "F")):
        raise ValueError(f"{path} is of mode {turned.mode}, whose values are not of 8 bits; convert it first")
    return turned


def resize_rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image as RGB of (height, width), resized bilinearly without keeping its shape."""
    return image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image, (h, w, 3) uint8."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
