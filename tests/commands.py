"""How tests run commands, and the images that they give them."""

from pathlib import Path

import torch
from PIL import Image


def status_of(main, arguments) -> int:
    """Run the main function of a command; return its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return leaving.code


def write_shades(root: Path) -> Path:
    """Write two classes of 8×6 images, dark and light: 24 to train on, 8 to test with."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, base in (("dark", 0), ("light", 128)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(base, base + 128, (6, 8, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root
