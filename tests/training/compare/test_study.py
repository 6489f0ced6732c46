"""A damaged study is refused in one sentence, and so is a study that no search wrote."""

import random
import sqlite3
from pathlib import Path

import optuna
import pytest
from refusals import refuses

from cifarblocks.training.compare.space import read_range
from cifarblocks.training.compare.study import next_trial, open_study, tell
from cifarblocks.training.errors import UserError

SPACE = dict([read_range("lr=0.1..1")])


def opened(folder: Path) -> optuna.study.Study:
    return open_study(folder, None, {"epochs": 1}, SPACE)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a study of three trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tmp_path_factory.mktemp("study")
    study = opened(folder)
    for _ in range(3):
        with next_trial(study, SPACE, folder, 3, 0) as trial:
            trial.set_user_attr("values", {"lr": 0.5})
            trial.report(0.5, 1)
            tell(study, trial, folder, optuna.trial.TrialState.COMPLETE, 0.5)
    return (folder / "study.db").read_bytes()


def read_all(folder: Path) -> None:
    study = opened(folder)
    assert len(study.trials) == 3
    assert study.best_trial.user_attrs["values"] == {"lr": 0.5}
    with next_trial(study, SPACE, folder, 4, 0) as trial:
        trial.report(0.5, 1)
        trial.should_prune()
        tell(study, trial, folder, optuna.trial.TrialState.COMPLETE, 0.5)


def test_a_whole_study_is_gone_on_with(tmp_path, written):
    (tmp_path / "study.db").write_bytes(written)
    read_all(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: c[:100], lambda c: b"x" * 5000, lambda c: b""]
)
def test_a_damaged_study_is_refused(tmp_path, written, damage):
    path = tmp_path / "study.db"
    path.write_bytes(damage(written))
    if damage(written) == b"":
        assert opened(tmp_path).trials == []  # to SQLite this is a new file
        return
    with refuses(UserError, path):
        opened(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trial_user_attributes SET value_json = '\"../../out\"' WHERE key = 'folder'",
        "UPDATE trial_user_attributes SET value_json = '[1]' WHERE key = 'values'",
        "UPDATE trial_user_attributes SET value_json = '{'",
        "UPDATE trial_user_attributes SET key = 'valuet' WHERE key = 'values'",
        "UPDATE study_user_attributes SET value_json = '[1]'",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_values SET value = 'x'",
        "UPDATE trial_values SET value_type = 'INF_POS', value = NULL",
        "UPDATE trial_intermediate_values SET intermediate_value = 'x'",
        "DELETE FROM trial_values",
        "DELETE FROM study_directions",
        "UPDATE study_directions SET direction = 'MAXIMIZE'",
    ],
)
def test_a_study_of_another_shape_is_refused(tmp_path, written, change):
    path = tmp_path / "study.db"
    path.write_bytes(written)
    database = sqlite3.connect(path)
    with database:
        database.execute(change)
    database.close()
    with refuses(UserError, path):
        opened(tmp_path)


def test_the_mark_of_another_folder_is_no_text(tmp_path):
    def opened_from_storage():
        return open_study(tmp_path, str(tmp_path / "journal.log"), {"epochs": 1}, SPACE)

    opened_from_storage()
    opened_from_storage()
    (tmp_path / "study.id").write_bytes(b"\xff\xfe")
    with refuses(UserError, tmp_path, "--storage"):
        opened_from_storage()
    (tmp_path / "journal.log").write_bytes(b"\xff" * 99)
    with refuses(UserError, tmp_path / "journal.log"):
        opened_from_storage()


@pytest.mark.slow
def test_a_study_with_flipped_bits_is_refused_or_gone_on_with(tmp_path, written):
    draw, refused = random.Random(0), 0
    for number in range(300):
        content = bytearray(written)
        for _ in range(200):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "study.db").write_bytes(content)
        try:
            opened(folder)
        except UserError:
            refused += 1
    assert refused > 30
