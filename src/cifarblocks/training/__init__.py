"""The training system behind `cifarblocks train`; it needs `pip install "cifarblocks[train]"`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def train(
    model: str,
    data: str = "digits",
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    output: str | Path = "runs",
    name: str | None = None,
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train a model, test it once, and write the results, as `cifarblocks train` does.

    Args:
        model: A name of `cifarblocks.list_models()`.
        data: A name of a data set, such as digits or cifar10, or the path of a folder of images.
        epochs: Passes over the training images. Default: the recipe's.
        batch_size: Images per step, over all processes. Default: the recipe's.
        lr: Peak learning rate per 256 images. Default: the recipe's.
        seed: Seed of initial weights, order and augmentation.
        output: The run is written to OUTPUT/MODEL/NAME.
        name: Name of the run. Default: the date and time.
        resume: Continue the run of that name, or start it if there is none.
        options: Other fields of `cifarblocks.training.options.declared.Options`, e.g. `mean=(0.5, 0.5, 0.5),
            model_argument={"kernel_size": 5}`; None leaves one open.

    Returns:
        Content of the run's summary.json; empty with `no_test=True`.

    Raises:
        UserError: If an option is unknown, has a bad value, or contradicts another.
        RunError: If the run fails; StoppedError, a kind of it, after SIGINT, SIGTERM or SIGUSR1.
    """
    from cifarblocks.training import loop
    from cifarblocks.training.compare.launch import as_settings, command_line, parse
    from cifarblocks.training.distributed import joined_processes

    given = {"model": model, "data": data, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    settings = as_settings({**given, "output": str(output), "name": name, "resume": resume, **options})
    with naming_arguments():
        parsed = parse(command_line(settings))
        with joined_processes(parsed.device) as processes:
            return loop.train(parsed, processes)


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Name arguments of `train` in the messages of errors inside the block, in place of options of the command."""
    from cifarblocks.training.errors import RunError, UserError

    try:
        yield
    except (UserError, RunError) as error:
        error.args = (*error.args[:-1], as_arguments(str(error)))
        raise


def as_arguments(message: str) -> str:
    """Return a message with the arguments of `train` in place of the options of the command.

    >>> as_arguments("--batch-size 64 is more than the 54 training images")
    'batch_size 64 is more than the 54 training images'
    >>> as_arguments("run first already exists; give another name, or continue it with --resume")
    'run first already exists; give another name, or continue it with resume=True'
    """
    from cifarblocks.training.compare.launch import is_flag

    def argument(option: re.Match[str]) -> str:
        return option[1].replace("-", "_") + ("=True" if is_flag(option[1]) else "")

    return re.sub(r"(?<!\S)--([a-z-]+)", argument, message)
