import pytest


@pytest.fixture
def fitted(tmp_path, image_folder, monkeypatch):
    """Train in this process, on the shades: fitted("--epochs", 1) → the run, ended and not tested."""
    from cifarblocks.training.distributed import ALONE
    from cifarblocks.training.loop import fit
    from cifarblocks.training.models import build_model
    from cifarblocks.training.options.parse import read_options
    from cifarblocks.training.run import prepare
    from cifarblocks.training.saving import resume

    monkeypatch.chdir(tmp_path)
    small = ("--model", "resnet_20", "--data", "folder:shades", "--batch-size", "8", "--epochs", "1", "--lr", "0.1",
             "--precision", "float64")  # fmt: skip

    def run(*arguments, build=build_model):
        options = read_options([*small, *map(str, arguments)])
        prepared = prepare(options, ALONE, build)
        resume(prepared)
        for _ in fit(prepared):
            pass
        return prepared

    return run
