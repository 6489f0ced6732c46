from pathlib import Path

import pytest

from cifarblocks.training.compare import launch, search, sweep


@pytest.fixture
def stand_in(signals, monkeypatch, tmp_path):
    """In an empty folder, stand_in_train.py in place of `cifarblocks train`, and no pictures."""
    monkeypatch.setattr(launch, "TRAIN", (str(Path(__file__).with_name("stand_in_train.py")),))
    monkeypatch.setattr(search, "draw_study", lambda *_: None)
    monkeypatch.setattr(sweep, "write_comparison", lambda *_: None)
    monkeypatch.chdir(tmp_path)
