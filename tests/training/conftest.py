import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def signals():
    """Ctrl-C is heard even where a shell's & has it ignored; afterwards all is as it was."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def script(tmp_path):
    """Run a command or an example in an empty folder: script("train", "--epochs", 1) → the process, ended."""

    def run(name, *arguments, processes=1, status=0, **environment):
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        script = [str(ROOT / "examples" / name)] if name.endswith(".py") else ["-m", "cifarblocks", name]
        command = [*launcher, *script, *map(str, arguments)]
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


@pytest.fixture
def fitted(tmp_path, image_folder, monkeypatch):
    """Train in this process, on the shades: fitted("--epochs", 1) → the run, ended and not tested."""
    from cifarblocks.training import loop as train
    from cifarblocks.training.distributed import Processes
    from cifarblocks.training.options.parse import read_options
    from cifarblocks.training.run import build_named
    from cifarblocks.training.run_folder import folder as runs
    from cifarblocks.training.saving import resume

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "lock", lambda _: None)  # only `train` releases what it locks
    small = ("--model", "resnet_20", "--data", "folder:shades", "--batch-size", "8", "--epochs", "1", "--lr", "0.1",
             "--precision", "float64")  # fmt: skip

    def run(*arguments, build=build_named):
        options = read_options([*small, *map(str, arguments)])
        prepared = train.prepare(options, Processes(0, 1, torch.device("cpu")), build)
        resume(prepared)
        for _ in train.fit(prepared):
            pass
        return prepared

    return run
