import pytest


@pytest.fixture
def prepared(tmp_path, image_folder, monkeypatch):
    """Prepare a run in this process, on the shades: prepared("--epochs", 1) → the run, before its first step."""
    from cifarblocks.training.distributed import ALONE
    from cifarblocks.training.options.parse import read_options
    from cifarblocks.training.run import prepare
    from cifarblocks.training.saving import resume

    monkeypatch.chdir(tmp_path)
    small = ("--model", "resnet_20", "--data", "folder:shades", "--batch-size", "8", "--epochs", "1", "--lr", "0.1",
             "--precision", "float64")  # fmt: skip

    def run(*arguments):
        prepared = prepare(read_options([*small, *map(str, arguments)]), ALONE)
        with prepared.opened():
            resume(prepared)
        return prepared

    return run


@pytest.fixture
def fitted(prepared):
    """Train in this process, on the shades: fitted("--epochs", 1) → the run, ended and not tested."""
    from cifarblocks.training.loop import fit

    def run(*arguments):
        run = prepared(*arguments)
        for _ in fit(run):
            pass
        return run

    return run
