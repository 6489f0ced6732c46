import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(tmp_path):
    """Run an example as a person would, in an empty folder: script("train.py", "--epochs", 1) → the process, ended."""

    def run(name, *arguments, processes=1, status=0, **environment):
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*launcher, str(ROOT / "examples" / name), *map(str, arguments)]
        finished = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == status, finished.stdout + finished.stderr
        return finished

    return run


@pytest.fixture
def image_folder(tmp_path):
    """A folder of two classes of 8×6 images, dark and light: 24 to train on, 8 to test with."""
    root = tmp_path / "shades"
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, base in (("dark", 0), ("light", 128)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(base, base + 128, (6, 8, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root
