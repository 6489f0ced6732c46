"""Read image files; only this file of the core needs Pillow, and `import cifarblocks` does not import it."""

import ctypes
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, _imaging
from PIL.ImageFile import ImageFile
from torch import Tensor

from cifarblocks.checkpoints.files import first_line, reading

# Pillow's other decoders are not needed, and the one for EPS starts a program, Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# The modes of 8 bits that Pillow converts to RGB. Other modes are deeper (I, F) or have no RGB (LAB).
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

# For a damaged file Pillow logs the message that it raises as well, and its libtiff writes it to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):  # Windows does not find it
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def is_hidden(path: Path) -> bool:
    """Return True for the name of a file that programs add to folders of images: .DS_Store, __MACOSX."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def is_named_as_image(path: Path) -> bool:
    """Return True for a name with the suffix of an image.

    >>> is_named_as_image(Path("cat.JPG")), is_named_as_image(Path("Thumbs.db"))
    (True, False)
    """
    return path.suffix.lower() in SUFFIXES


def list_images(path: Path) -> list[Path]:
    """Return the images of a folder, sorted, or of its subfolders if it has none; return another path unchanged."""
    if not os.path.isdir(path):  # Path.is_dir raises an OSError for a name that is too long
        return [path]
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry))
    return _images_in(path) or [image for folder in folders for image in _images_in(folder)] or [path]


def _images_in(folder: Path) -> list[Path]:
    named = (entry for entry in folder.iterdir() if is_named_as_image(entry) and not is_hidden(entry))
    return sorted(entry for entry in named if not entry.is_dir())


def read_image(path: Path) -> Image.Image:
    """Decode an image file, and turn it upright by its EXIF orientation.

    An animation, or a file of several pages, gives its first image. A truncated file is refused. Damage is refused if
    the decoder finds it: JPEG has no checksum, so a damaged one may decode to other pixels.

    Raises:
        ValueError: If it cannot be read or decoded, or its mode is not in `MODES`.
    """
    with opened(path) as image:
        require_pixels(image)
        # One line at a time: in blocks of 64 kB the widest WebP, a file of some hundred bytes, takes two minutes.
        image.decodermaxblock = max(image.decodermaxblock, 4 * image.width)
        image.load()
        return upright(image)


def read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the image that `read_image` returns, from the header of the file.

    Raises:
        ValueError: If the file cannot be read.
    """
    with opened(path) as image:
        # Not PNG's own method, which decodes the file. Pillow has turned the size of a TIFF already.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
        return image.size if turned else image.size[::-1]


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """Open an image file of one of the `FORMATS`; nothing is decoded yet.

    Raises:
        ValueError: If it cannot be opened, or the block raises an error.
    """
    with reading(path, "read as an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=FORMATS) as image:
                yield image
        except UnidentifiedImageError:
            known = f"it is none of {', '.join(FORMATS)}"
            raise ValueError(known if path.stat().st_size else "it is empty") from None
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise ValueError(f"it has more than {most:,} pixels, Pillow's limit; make it smaller first") from None


def require_pixels(image: Image.Image) -> None:
    """Refuse an image that does not have 8 bits, has no RGB or is empty (e.g. cropped outside of its edges).

    Raises:
        ValueError: If its mode is not in `MODES`, or its width or height is 0.
    """
    if image.mode not in MODES:
        raise ValueError(f"the image's mode is {image.mode}; convert it to RGB of 8 bits first")
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width}x{image.height} pixels")


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of an image, turned upright by its EXIF orientation.

    Raises:
        ValueError: If its mode is not in `MODES`, it is empty, or its file cannot be decoded.
    """
    require_pixels(image)
    try:
        image.load()  # Pillow decodes a file when its pixels are first needed
    except Exception as error:  # its decoders raise several kinds
        raise ValueError(f"the image cannot be decoded: {first_line(error)}") from error
    turned = ImageOps.exif_transpose(image)
    turned.info.pop("transparency", None)  # `resize_rgb` drops it, and `convert` would warn about it
    return turned


def resize_rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image as RGB of (height, width), resized bilinearly without keeping its shape."""
    return image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image, (h, w, 3) uint8."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
