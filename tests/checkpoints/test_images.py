"""Image files: which are read, which way up, and in which size."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from torchvision.transforms.v2 import functional as transforms

from cifarblocks.checkpoints.images import FORMATS, pixels_of, read_image, resize_rgb


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = np.array(read_image(tmp_path / "a.png"))
    assert turned.shape == (8, 6, 3)
    assert (turned[0, 5] == 255).all()


def test_an_image_file_cannot_run_a_program(tmp_path, monkeypatch):
    """Pillow gives a file that begins as an EPS to Ghostscript, whatever it is called."""
    from PIL import EpsImagePlugin

    ghostscript, ran = tmp_path / "gs", tmp_path / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(ghostscript))
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with refuses(ValueError, path):
        read_image(path)
    assert not ran.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(tmp_path, kind):
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "image", format=kind)
    assert read_image(tmp_path / "image").size == (6, 4)


def test_every_image_is_opened_with_a_list_of_formats():
    root = Path(__file__).parents[2]
    for path in [path for part in ("src", "examples", "benchmarks", "docs") for path in (root / part).rglob("*.py")]:
        for call in re.findall(r"Image\.open\(.*", path.read_text()):
            assert "formats=" in call, path


@pytest.mark.parametrize("size", [(6, 8), (32, 32), (5, 21), (48, 7), (40, 30)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_images_are_resized_as_torchvision_does(mode, size):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert("RGB" if mode == "P" else "RGBA").convert(mode)
    expected = np.array(transforms.resize(image.convert("RGB"), list(size), antialias=True))
    found = pixels_of(resize_rgb(image, size))
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(expected))
