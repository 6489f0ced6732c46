"""The training system behind `cifarblocks train`; it needs `pip install "cifarblocks[train]"`."""

from typing import Any


def train(model: str, data: str = "digits", **options: Any) -> dict[str, Any]:
    """Train a model, test it once, and write everything down, as `cifarblocks train` does.

    Args:
        model: A name of `cifarblocks.list_models()`.
        data: digits, cifar10, cifar100 or folder:PATH.
        options: Fields of `cifarblocks.training.options.declared.Options`, e.g. `epochs=30, mean=(0.5, 0.5, 0.5),
            model_argument={"kernel_size": 5}`; None leaves an option open.

    Returns:
        What the run's summary.json says; nothing with `no_test=True`.

    Raises:
        UserError: If an option is unknown, has a value that it refuses, or does not go with the others.
        RunError: If the run fails; StoppedError, a kind of it, after SIGINT or SIGTERM.
    """
    from cifarblocks.training import loop
    from cifarblocks.training.compare.launch import as_settings, command_line, parse
    from cifarblocks.training.distributed import joined_processes

    settings = as_settings({"model": model, "data": data, **options})
    with joined_processes() as processes:
        return loop.train(parse(command_line(settings)), processes)
