"""A disk that is full, fails or may not be written at any call: one sentence, and the run goes on to the same end."""

import contextlib
import errno
import io
import os
import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from commands import EVERYTHING_RANDOM, folder_until_exit, status_of, write_shades
from refusals import assert_names
from run_folders import assert_same_run

from cifarblocks.cli.train import main

RARE = 400  # too slow for the quick tests; tests/training/test_survival.py has some
ARGUMENTS = [*EVERYTHING_RANDOM, "--name", "storm", "--no-test"]
RUN = Path("runs", "eca_resnet_20", "storm")
CALLS = ["fsync", "replace", "unlink", "mkdir"]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES]


def case(seed: int) -> None:
    """Let some calls of the system fail, once or from then on; then train on a disk that works."""
    draw = random.Random(seed)
    name, first = draw.choice(CALLS), draw.randrange(25)
    error, lasting = draw.choice(ERRORS), draw.random() < 0.3
    real, counted = getattr(os, name), iter(range(10**6))

    def fails(*arguments, **keywords):
        number = next(counted)
        if number == first or (lasting and number > first):
            raise OSError(error, os.strerror(error), str(arguments[0]))
        return real(*arguments, **keywords)

    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_shades(Path("shades"))
        with patch.object(os, name, fails):
            status, said = trained()
        assert status in (0, 1, 2), said
        if status:
            assert_names(said, os.strerror(error))
        status, said = trained()
        assert status == 0, said
        assert not list(RUN.glob(".*.tmp"))
        assert_same_run(whole() / RUN, RUN)


def trained() -> tuple[int, str]:
    """Train in this process; return the exit status and what it said of errors."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = status_of(main, ARGUMENTS)
    return status, said.getvalue()


KEPT = folder_until_exit()


@cache
def whole() -> Path:
    """Return the folder of a run on a disk that works."""
    folder = KEPT
    with contextlib.chdir(folder):
        write_shades(Path("shades"))
        assert trained()[0] == 0
    return folder
