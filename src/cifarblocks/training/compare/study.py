"""A study of Optuna: its storage, and the division of its trials between processes on any machines.

All of them write to one folder. Each trial under way is claimed by the process that watches it. A trial that is running
in the study, but that no process claims or trains, was interrupted. The next process continues it.
"""

import json
import math
import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState

from cifarblocks.checkpoints.files import first_line, require_regular
from cifarblocks.training.atomic import write_atomically
from cifarblocks.training.compare.claims import claimed
from cifarblocks.training.compare.space import Space
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.locks import LOCKS, InUseError, locked

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STUDY = "study.lock"  # held briefly, while a process reads all trials, begins one or reports the end of one


def open_study(folder: Path, storage: str | None, settings: dict[str, Any], space: Space) -> Study:
    """Begin a study, or continue it.

    Args:
        folder: Folder of its trials; the folder's name is the name of the study in the storage.
        storage: A database's URL, or the path of a journal file; None for an SQLite file in the folder.
        settings: Settings that decide its trials; they must equal those at its begin.
        space: Ranges of the options that are searched.

    Raises:
        UserError: If it was begun with other settings or in another folder, or the storage cannot be used.
    """
    if storage is None and "?" in str(folder):  # SQLite's address would end there, and another file be written
        raise UserError(f"--output and --name of a search must not contain '?', got {str(folder)!r}")
    place = folder / "study.db"
    with locked(folder / LOCKS / STUDY):
        try:
            study = optuna.create_study(
                storage=open_storage(storage) if storage else f"sqlite:///{place}",
                study_name=folder.name if storage else "search",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            )
            check_content(study)
        except Exception as error:
            shown = f"--storage {without_password(storage)}" if storage else place
            raise UserError(f"{shown} cannot be used as a study: {first_line(error)}") from error
        ranges = {f"search {key}": str(distribution) for key, distribution in space.items()}
        check_settings(study, folder, json.loads(json.dumps({**settings, **ranges}, default=str)))
        if storage:
            check_folder(study, folder)
    return study


def check_content(study: Study) -> None:
    """Read a whole study from its storage, and refuse content that no search wrote.

    Raises:
        Exception: Any kind that the storage raises if it is damaged.
        ValueError: If something has another shape.
    """
    if not isinstance(study.user_attrs.get("settings", {}), dict):
        raise ValueError("its settings are no table")
    if study.directions != [StudyDirection.MINIMIZE]:
        raise ValueError("it must minimise one value")
    for trial in study.get_trials():
        scores = trial.values or []
        for score in [*scores, *trial.intermediate_values.values()]:
            if not isinstance(score, int | float):
                raise ValueError(f"trial {trial.number} has the score {score!r}")
        if trial.state == TrialState.COMPLETE and [math.isfinite(score) for score in scores] != [True]:
            raise ValueError(f"trial {trial.number} is complete with the scores {scores}")
        folder = trial.user_attrs.get("folder", "trial-0000")
        values = trial.user_attrs.get("values", None if trial.state == TrialState.COMPLETE else {})
        if not re.fullmatch(r"trial-\d{4,}", str(folder)):
            raise ValueError(f"trial {trial.number} has the folder {folder!r}")
        if not isinstance(values, dict):
            raise ValueError(f"trial {trial.number} has the values {values!r}")


def open_storage(storage: str) -> str | BaseStorage:
    """Return the storage of a study: a database for a URL, a journal for the path of a file, as in Optuna's tools."""
    if "://" in storage:
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    if Path(storage).exists():
        require_regular(Path(storage))
    return JournalStorage(JournalFileBackend(storage, JournalFileOpenLock(storage)))


def without_password(storage: str) -> str:
    """Return a URL without its password.

    >>> without_password("postgresql://me:secret@host/studies")
    'postgresql://me:***@host/studies'
    """
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)


def check_settings(study: Study, folder: Path, now: dict[str, Any]) -> None:
    """Record the settings of a new study, and refuse other settings for an existing one."""
    begun = study.user_attrs.get("settings", now)
    for key in {**begun, **now}:
        if begun.get(key) != now.get(key):
            raise UserError(
                f"study {folder} was begun with {key} {begun.get(key)!r}, and now it is {now.get(key)!r}; "
                "give another --name"
            )
    study.set_user_attr("settings", now)


def check_folder(study: Study, folder: Path) -> None:
    """Refuse a folder that other processes of the study do not see, because locks would have no effect there."""
    path = folder / "study.id"
    if "id" not in study.user_attrs:
        study.set_user_attr("id", secrets.token_hex(8))
        write_atomically(path, study.user_attrs["id"].encode())
    if not path.exists() or path.read_bytes() != str(study.user_attrs["id"]).encode():
        raise UserError(
            f"study {study.study_name} of --storage has its trials in another folder than {folder}; "
            "give an --output on a disk that all machines share, or another --name"
        )


@contextmanager
def next_trial(study: Study, space: Space, folder: Path, trials: int, seed: int) -> Iterator[Trial | None]:
    """Begin a trial, or continue an interrupted one, and claim it until the end of the block.

    Yields:
        The trial; None if `trials` trials have ended or are running elsewhere.
    """
    with ExitStack() as claim:
        trial = None
        with locked(folder / LOCKS / STUDY):
            queue_cut_trials(study, folder)
            begun = study.get_trials(deepcopy=False, states=(*ENDED, TrialState.RUNNING))
            if len(begun) < trials:
                # Seeded for each trial, so that an interrupted study goes on as it would have. Running trials count as
                # bad ones, so that two processes do not try the same values.
                study.sampler = optuna.samplers.TPESampler(seed=seed + len(begun), constant_liar=True)
                trial = study.ask(space)
                name = trial.user_attrs.get("folder", folder_name(trial.number))
                trial.set_user_attr("folder", name)
                claim.enter_context(claimed_trial(folder, name))
        yield trial


def queue_cut_trials(study: Study, folder: Path) -> None:
    """Put interrupted trials first in the queue, with their values and folders."""
    for cut in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        name = cut.user_attrs.get("folder", folder_name(cut.number))
        try:
            with claimed_trial(folder, name):
                study.tell(cut.number, state=TrialState.FAIL)
                study.enqueue_trial(cut.params, user_attrs={"folder": name})
        except InUseError:
            continue


def tell(study: Study, trial: Trial, folder: Path, state: TrialState, value: float | None = None) -> None:
    """Report the end of a trial to the study, while no process looks for interrupted trials."""
    with locked(folder / LOCKS / STUDY):
        study.tell(trial, value, state)


def claimed_trial(folder: Path, name: str) -> AbstractContextManager[None]:
    """Keep other searches of a study away from a trial; its lock does not depend on its network."""
    return claimed(folder / LOCKS / f"{name}.claim", (folder / LOCKS).glob(f"*/{name}.lock"))


def folder_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:04}"
