"""Commands as tests run them, interruptions between the steps, and images to give them."""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

# Options of a run on the shades in which all that draws random numbers is on; 5 steps an epoch.
EVERYTHING_RANDOM = (
    "--model", "eca_resnet_20", "--data", "folder:shades", "--batch-size", "4", "--epochs", "2", "--clip", "1",
    "--drop-path", "0.2", "--dropout", "0.1", "--erasing", "0.5", "--mixup", "0.4", "--cutmix", "1", "--ema", "0.9",
    "--policy", "trivial", "--accumulate", "2", "--checkpoint-steps", "2", "--resume",
)  # fmt: skip


def folder_until_exit() -> Path:
    """Make a temporary folder that is removed when Python ends."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def status_of(main, arguments) -> int:
    """Run the main function of a command; return its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return leaving.code


@contextmanager
def after_steps(what: Callable[[Optimizer], object]) -> Iterator[None]:
    """Call `what` after each step of an optimizer: once, although Muon's takes that of SGD within it."""
    depth = 0

    def begin(*_):
        nonlocal depth
        depth += 1

    def end(optimizer, *_):
        nonlocal depth
        depth -= 1
        if depth == 0:
            what(optimizer)

    hooks = register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
