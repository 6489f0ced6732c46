"""Damaged image files: each gives an image, or a ValueError that names it, within seconds and without other output."""

import io
import os
import random
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from refusals import assert_names

from cifarblocks.checkpoints.images import FORMATS, read_image, read_size, resize_rgb

SECONDS = 20  # the largest image that Pillow takes has 179 million pixels
MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"),
    "PPM": ("1", "L", "RGB"),
}
SETTINGS = {
    "JPEG": ({}, {"progressive": True}, {"restart_marker_blocks": 1}),
    "PNG": ({}, {"save_all": True}, {"transparency": 0}),
    "WEBP": ({}, {"lossless": True}, {"save_all": True}),
    "GIF": ({}, {"save_all": True}, {"transparency": 0}),
    "BMP": ({},),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
    "PPM": ({},),
}
HEADER = 64  # bytes at the beginning, where sizes and offsets are


def case(seed: int) -> None:
    """Read one damaged file."""
    draw = random.Random(seed)
    content = draw.choice(DAMAGES)(valid_file(draw), draw)
    if draw.random() < 0.5:
        content = with_checksums(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / draw.choice(("image", "image.png", "image.tif"))
        path.write_bytes(content)
        began = time.monotonic()
        said = said_on_stderr(lambda: read(path), Path(folder) / "stderr")
        assert not said, said
        assert time.monotonic() - began < SECONDS


def read(path: Path) -> None:
    """Read a file as the commands do: its size and its image, or the refusal of either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read_file in (read_size, read_image):
            try:
                found = read_file(path)
            except ValueError as error:
                assert_names(str(error), path)
            else:
                assert isinstance(found, tuple) or resize_rgb(found, (8, 6)).size == (6, 8)


def said_on_stderr(act: Callable[[], None], file: Path) -> str:
    """Return what is written to stderr, by libraries of C too, while something is done."""
    kept = os.dup(2)
    with file.open("wb") as opened:
        os.dup2(opened.fileno(), 2)
    try:
        act()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return file.read_text(errors="replace")


def valid_file(draw: random.Random) -> bytes:
    """Draw an image of noise, and write it in one of the formats."""
    kind = draw.choice(FORMATS)
    mode, settings = draw.choice(MODES[kind]), dict(draw.choice(SETTINGS[kind]))
    size = draw.randint(1, 24), draw.randint(1, 24)
    frames = [Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1])) for _ in range(2)]
    first, second = (frame.convert("L").convert(mode) if mode == "I;16" else frame.convert(mode) for frame in frames)
    if mode not in ("1", "L", "P"):
        settings.pop("transparency", None)
    if "save_all" in settings or kind == "TIFF":
        settings |= {"save_all": True, "append_images": [second]}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = draw.randint(1, 8)  # orientation
        settings["exif"] = exif
    file = io.BytesIO()
    first.save(file, kind, **settings)
    return file.getvalue()


def flip(content: bytes, draw: random.Random) -> bytes:
    """Flip some bits anywhere."""
    return flip_bits(content, [draw.randrange(8 * len(content)) for _ in range(draw.randint(1, 8))])


def flip_header(content: bytes, draw: random.Random) -> bytes:
    """Flip one or two bits of the first bytes."""
    return flip_bits(content, [draw.randrange(8 * min(HEADER, len(content))) for _ in range(draw.randint(1, 2))])


def flip_bits(content: bytes, places: list[int]) -> bytes:
    """Flip the bits of these numbers."""
    flipped = bytearray(content)
    for place in places:
        flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


def truncate(content: bytes, draw: random.Random) -> bytes:
    """Keep the beginning."""
    return content[: draw.randrange(len(content))]


def overwrite(content: bytes, draw: random.Random) -> bytes:
    """Set some bytes in a row to 0, to 255, or to noise."""
    start, length = draw.randrange(len(content)), draw.randint(1, 16)
    return (
        content[:start]
        + draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
        + content[start + length :]
    )


def cut_out(content: bytes, draw: random.Random) -> bytes:
    """Leave some bytes out."""
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.randint(1, 16) :]


def join(content: bytes, draw: random.Random) -> bytes:
    """Join the beginning to the end of another file."""
    other = valid_file(draw)
    return content[: draw.randrange(len(content))] + other[draw.randrange(len(other)) :]


DAMAGES = (flip, flip_header, truncate, overwrite, cut_out, join)


def with_checksums(content: bytes) -> bytes:
    """Make the checksums of a PNG right, so that more than the first chunk is read."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    mended, place = bytearray(content), 8
    while place + 12 <= len(mended):
        end = place + 8 + struct.unpack_from(">I", mended, place)[0]
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)
