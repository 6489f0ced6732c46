"""Runs in processes of their own: command lines, logs, watching and stopping."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from cifarblocks.training.errors import UserError
from cifarblocks.training.options.declared import DECLARED, FLAG, Options
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.output import escaped
from cifarblocks.training.run_folder.folder import CONFIGURATION, is_finished, read_json
from cifarblocks.training.run_folder.sharing import shareable

TRAIN = ("-m", "cifarblocks", "train")
# Options of `cifarblocks train` without the dashes, and model-argument.NAME for arguments of the model.
Settings = dict[str, Any]


def tidy(key: str) -> str:
    """Return the name of an option with dashes; an argument of the model does not change.

    >>> tidy("weight_decay"), tidy("model_argument.drop_path")
    ('weight-decay', 'model-argument.drop_path')
    """
    option, dot, name = key.partition(".")
    return option.replace("_", "-") + dot + name


def as_settings(options: dict[str, Any]) -> Settings:
    """Return the settings of some fields of `Options`; None leaves one out.

    Raises:
        UserError: If there is no such field.
    """
    for name in options:
        if name not in DECLARED:
            near = get_close_matches(name, DECLARED, n=1)
            raise UserError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    given = {name: value for name, value in options.items() if value is not None}
    arguments = {f"model-argument.{name}": value for name, value in given.pop("model_argument", {}).items()}
    plain = {tidy(name): list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {**plain, **arguments}


def command_line(settings: Settings) -> list[str]:
    """Return the arguments of `cifarblocks train` for some settings.

    >>> command_line({"model": "ghost_resnet_20", "model-argument.ratio": 3, "mirror": False, "std": [0.2, 0.3, 0.2]})
    ['--model', 'ghost_resnet_20', '--model-argument', 'ratio=3', '--no-mirror', '--std', '0.2', '0.3', '0.2']
    """
    arguments: list[str] = []
    for key, value in settings.items():
        option, _, name = key.partition(".")
        if name:
            arguments += [f"--{option}", f"{name}={value!r}" if reads_otherwise(value) else f"{name}={value}"]
        elif isinstance(value, bool):
            if value or not is_flag(option):
                arguments.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            arguments += [f"--{option}", *map(str, value)]
        else:
            arguments += [f"--{option}", str(value)]
    return arguments


def is_flag(option: str) -> bool:
    """Return True for an option without a `--no-` form, which is left out for false."""
    told = DECLARED.get(option.replace("-", "_"))
    return told is not None and FLAG.items() <= told["arguments"].items()


def reads_otherwise(value: Any) -> bool:
    """Return True for a text that would be read as a number or another literal without quotes."""
    return isinstance(value, str) and (not value.isidentifier() or value in ("True", "False", "None"))


def parse(arguments: list[str], where: str = "") -> Options:
    """Return the options that `cifarblocks train` reads from a command line.

    Raises:
        UserError: If it refuses them; its message follows the origin of the command line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return read_options(arguments)
    except SystemExit:
        message = (said.getvalue().strip() or "asks for help").removeprefix("cifarblocks train: error: ")
        raise UserError(where + message) from None


def check_same_options(folder: Path, options: Options) -> None:
    """Refuse a run that was begun with other options.

    Raises:
        UserError: If an option differs; the message names the first.
    """
    path = folder / CONFIGURATION
    if not path.exists():
        return
    try:
        begun = shareable(read_json(path, {"options": {}}, "read as the configuration of a run")["options"])
    except UserError:
        if is_finished(folder):
            raise
        return  # the run itself reads its options from its checkpoint
    left_open = {"batch_size", "lr", "epochs"} - options.typed  # they may differ from the recipe's for few images
    for key, value in json.loads(json.dumps(shareable(options.recorded()))).items():
        if value not in (None, "auto") and key not in left_open and begun.get(key, value) != value:
            raise UserError(
                f"run {folder} was begun with {key} {begun.get(key)!r}, and now it is {value!r}; "
                f"give another --output, or remove that folder"
            )


class Process:
    """A training process in a session of its own, which Ctrl-C in the terminal does not reach.

    Args:
        arguments: the command line after cifarblocks train.
        log: the file that its output is appended to.
        environment: variables in addition to those of this process.
    """

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        self.asked = False
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *TRAIN, *arguments]
        with log.open("ab") as file:
            file.write(f"$ {escaped(shlex.join(command))}\n".encode())
            file.flush()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self.process.poll()

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, once."""
        if self.status is None and not self.asked:
            self.process.terminate()
        self.asked = True

    def stop(self) -> None:
        """Send SIGTERM and wait for the end; a second Ctrl-C kills it."""
        self.ask_to_stop()
        try:
            self.process.wait()
        except KeyboardInterrupt:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """Return the reason of its failure: the last line that it printed, or the signal that killed it."""
        if self.status is not None and self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("cifarblocks train: error: ")


def shared_machine(slot: int, jobs: int) -> dict[str, str]:
    """Return the environment of one of several processes side by side: its share of the threads, and a GPU."""
    environment: dict[str, str] = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        # torch counts the cores that this process may use, which are fewer than the machine's in a job of a cluster.
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
    if jobs > 1 and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % torch.cuda.device_count()]
    return environment
