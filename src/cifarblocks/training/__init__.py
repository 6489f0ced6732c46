"""The training system behind `cifarblocks train`; it needs `pip install "cifarblocks[train]"`."""

from typing import Any


def train(model: str, data: str = "digits", **options: Any) -> dict[str, Any]:
    """Train a model, test it once, and write everything down, as `cifarblocks train` does.

    Args:
        model: A name of `cifarblocks.list_models()`.
        data: digits, cifar10, cifar100 or folder:PATH.
        options: The other options of `cifarblocks train`, with underscores, e.g. `epochs=30, name="first"`.

    Returns:
        What the run's summary.json says; nothing with `no_test=True`.

    Raises:
        UserError: If an option is unknown, has a value that it refuses, or does not go with the others.
    """
    from cifarblocks.training import loop
    from cifarblocks.training.compare.launch import command_line, parse, tidy
    from cifarblocks.training.distributed import joined_processes

    settings = {"model": model, "data": data, **{tidy(name): value for name, value in options.items()}}
    with joined_processes() as processes:
        return loop.train(parse("train", command_line(settings)), processes)
