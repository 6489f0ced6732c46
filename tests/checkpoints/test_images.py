"""Image files: which are read, which way up, and in which size."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from refusals import refuses
from torchvision.transforms.v2 import functional as transforms

from cifarblocks.checkpoints.images import FORMATS, SUFFIXES, pixels_of, read_image, read_size, resize_rgb


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


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "image").touch()
    with refuses(ValueError, tmp_path / "image", "empty"):
        read_image(tmp_path / "image")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(tmp_path, kind):
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "image", format=kind)
    assert read_image(tmp_path / "image").size == (6, 4)


def noise(mode="RGB", size=(24, 16)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_image(tmp_path, kind):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue", "blue")]
    frames[0].save(tmp_path / "image", format=kind, save_all=True, append_images=frames[1:])
    red, _, blue = pixels_of(resize_rgb(read_image(tmp_path / "image"), (1, 1))).flatten().tolist()
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, kind):
    noise().save(tmp_path / "image", format=kind)
    content = (tmp_path / "image").read_bytes()
    for length in (0, 3, 40, len(content) // 2, len(content) - 100):
        (tmp_path / "image").write_bytes(content[:length])
        with refuses(ValueError, tmp_path / "image"):
            read_image(tmp_path / "image")


def test_nothing_is_said_beside_the_error(tmp_path, capfd):
    """The libtiff of Pillow writes to stderr itself."""
    noise().save(tmp_path / "image.tif", compression="tiff_adobe_deflate")
    content = bytearray((tmp_path / "image.tif").read_bytes())
    content[100] ^= 255  # in the pixels
    (tmp_path / "image.tif").write_bytes(content)
    with refuses(ValueError, tmp_path / "image.tif"):
        read_image(tmp_path / "image.tif")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_jpeg_that_can_be_decoded_is_an_image(tmp_path):
    noise().save(tmp_path / "image", format="JPEG")
    content = bytearray((tmp_path / "image").read_bytes())
    content[-100] ^= 1
    (tmp_path / "image").write_bytes(content)
    assert read_image(tmp_path / "image").size == (24, 16)


@pytest.mark.parametrize(("kind", "mode"), [("TIFF", "LAB"), ("TIFF", "F"), ("PNG", "I;16")])
def test_what_is_not_of_eight_bits_or_has_no_rgb_is_refused_by_its_mode(tmp_path, kind, mode):
    Image.new(mode, (6, 4)).save(tmp_path / "image", format=kind)
    with refuses(ValueError, tmp_path / "image", mode, "RGB"):
        read_image(tmp_path / "image")


def test_the_limit_on_pixels_is_pillows_and_nothing_is_said_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("1", (50, 40)).save(tmp_path / "image.png")  # twice the number from which Pillow warns
    assert read_image(tmp_path / "image.png").size == (50, 40)
    Image.new("1", (50, 41)).save(tmp_path / "image.png")
    with refuses(ValueError, tmp_path / "image.png", "2,000"):
        read_image(tmp_path / "image.png")


def test_transparency_of_a_palette_is_left_out_without_a_warning(tmp_path):
    noise("P").save(tmp_path / "image.png", transparency=bytes(range(256)))
    image = read_image(tmp_path / "image.png")
    assert image.mode == "P"
    assert resize_rgb(image, (16, 24)).tobytes() == noise("P").convert("RGB").tobytes()


def test_names_of_images_are_those_that_pillow_knows_of_the_formats():
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert set(SUFFIXES) == known - {".pfm"}  # numbers of 32 bits


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_the_size_is_that_of_the_upright_image_and_nothing_is_decoded(tmp_path, kind, monkeypatch):
    paths, sizes = [], []
    for orientation in range(1, 9) if kind in ("JPEG", "PNG", "WEBP", "TIFF") else (1,):
        path, exif = tmp_path / f"{orientation}.{kind}", Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (8, 6)).save(path, kind, exif=exif)
        paths.append(path)
        sizes.append(read_image(path).size[::-1])
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [read_size(path) for path in paths] == sizes
