"""Several searches of one study: each trial is tried once, whichever search dies, and all count to the same number."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import optuna
import pytest
from many import events, kill_with_children, start, wait_until
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cifarblocks.cli.search import main
from cifarblocks.training.compare import search
from cifarblocks.training.compare.study import ENDED

OUTPUT = Path("runs/search/mlp")
OPTIONS = ("--model", "mlp", "--search", "lr=0.01..10", "--epochs", "2", "--trials", "8")
JOURNAL = ("--storage", "study.log")


@pytest.fixture
def folder(stand_in, monkeypatch):
    """Trials wait after their first epoch until the file `hold` is removed."""
    monkeypatch.setattr(search, "POLL", 0.1)
    OUTPUT.mkdir(parents=True)
    (OUTPUT / "hold").touch()
    return OUTPUT


def trials(storage: tuple[str, ...] = JOURNAL) -> list[optuna.trial.FrozenTrial]:
    if storage:
        return optuna.load_study(study_name="mlp", storage=JournalStorage(JournalFileBackend("study.log"))).trials
    return optuna.load_study(study_name="search", storage=f"sqlite:///{OUTPUT}/study.db").trials


@pytest.mark.parametrize("storage", [JOURNAL, ()])
def test_four_searches_of_which_one_is_killed_share_a_study(folder, storage):
    searches = [start(lambda: main([*OPTIONS, *storage])) for _ in range(4)]
    wait_until(lambda: len(list(folder.glob("mlp/*/metrics.jsonl"))) == 4)
    kill_with_children(searches[2])
    (folder / "hold").unlink()
    for number in (0, 1, 3):
        searches[number].join(120)
        assert searches[number].exitcode == 0
    ended = [trial for trial in trials(storage) if trial.state in ENDED]
    failed = [trial for trial in trials(storage) if trial.state == TrialState.FAIL]
    assert (len(ended), len(failed), len(trials(storage))) == (8, 1, 9)
    folders = Counter(trial.user_attrs["folder"] for trial in ended)
    assert sorted(folders) == sorted(set(events(folder, "begins")))
    assert set(folders.values()) == {1}
    begun = Counter(events(folder, "begins"))
    assert begun.pop(failed[0].user_attrs["folder"]) == 2
    assert set(begun.values()) == {1}
    assert [t.params for t in ended if t.user_attrs["folder"] == failed[0].user_attrs["folder"]] == [failed[0].params]
    assert len({trial.params["lr"] for trial in ended}) == 8


def test_a_study_of_before_goes_on_with_the_trial_that_was_cut_off(folder):
    """Older searches wrote no locks, because only one process could use a study."""
    (folder / "hold").unlink()
    study = optuna.create_study(storage=f"sqlite:///{OUTPUT}/study.db", study_name="search")
    space = {"lr": optuna.distributions.FloatDistribution(0.01, 10, log=True)}
    for number in range(2):
        trial = study.ask(space)
        trial.set_user_attr("folder", f"trial-000{number}")
        trial.set_user_attr("values", dict(trial.params))
        if number == 0:
            study.tell(trial, 0.5)
    assert main(OPTIONS) == 0
    states = Counter(trial.state for trial in trials(()))
    assert states[TrialState.FAIL] == 1
    assert sum(states[state] for state in ENDED) == 8
    assert trials(())[2].params == trial.params
    assert events(folder, "begins")[0] == "trial-0001"


def test_a_study_in_a_shared_storage_is_refused_with_other_options_or_another_folder(folder, capsys):
    (folder / "hold").unlink()
    assert main([*OPTIONS, *JOURNAL]) == 0
    capsys.readouterr()
    assert main([*OPTIONS, *JOURNAL, "--patience", "3"]) == 2
    assert "patience" in capsys.readouterr().err
    assert main([*OPTIONS, *JOURNAL, "--output", "elsewhere"]) == 2
    assert "--output" in capsys.readouterr().err
    assert main([*OPTIONS, *JOURNAL, "--name", "other", "--trials", "1"]) == 0
    assert len(trials()) == 8


def test_a_storage_that_cannot_be_used_is_named_without_its_password(folder, capsys):
    assert main([*OPTIONS, "--storage", "nosuch://me:secret@host/studies"]) == 2
    error = capsys.readouterr().err
    assert "--storage nosuch://me:***@host/studies" in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_sigusr1_stops_the_trial_and_the_same_command_goes_on(folder):
    def interrupt():
        wait_until(lambda: len(list(folder.glob("mlp/*/metrics.jsonl"))) == 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main([*OPTIONS, *JOURNAL]) == 128 + signal.SIGUSR1
    assert events(folder, "stopped") == ["trial-0000"]
    (folder / "hold").unlink()
    assert main([*OPTIONS, *JOURNAL]) == 0
    assert len([trial for trial in trials() if trial.state in ENDED]) == 8  # a pruned one may be stopped before it ends
    assert Counter(events(folder, "begins")).most_common(1) == [("trial-0000", 2)]
