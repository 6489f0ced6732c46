import pytest
import torch


@pytest.fixture
def fitted(tmp_path, image_folder, monkeypatch):
    """Train in this process, on the shades: fitted("--epochs", 1) → the run, ended and not tested."""
    from cifarblocks.training import loop as train
    from cifarblocks.training.distributed import Processes
    from cifarblocks.training.options.parse import parse_training_arguments
    from cifarblocks.training.run_folder import folder as runs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "lock", lambda _: None)  # only `train` releases what it locks
    small = ("--model", "resnet_20", "--data", "folder:shades", "--batch-size", "8", "--epochs", "1", "--lr", "0.1",
             "--precision", "float64")  # fmt: skip

    def run(*arguments, build=train.build_model):
        options = parse_training_arguments([*small, *map(str, arguments)], None)
        prepared = train.prepare(options, Processes(0, 1, torch.device("cpu")), build)
        prepared.resume()
        for _ in train.fit(prepared):
            pass
        return prepared

    return run
