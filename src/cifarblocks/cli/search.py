"""Search for the learning rate, or any other value, on validation images: Optuna's TPE, bad trials cut short.

    cifarblocks search --search lr=0.01..3 --epochs 10 --trials 12        # the digits, about 5 minutes
    cifarblocks search --data cifar10 --model resnet_20 --search lr=0.05..5 --search weight_decay=1e-5..1e-2
    cifarblocks search --search optimizer=sgd,adamw --search model-argument.drop_path=0..0.3 --train

Every option of `cifarblocks train` may be given too. Each trial trains on a share of the training images and is
measured on the validation images; the test images are left alone. A trial ends when it is worse than the median of
those before it, or has not got better for some epochs. The study is an SQLite file, and the same command goes on with
it, also with more --trials. At the end stands the command that trains with the best values on all images; --train runs
it.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import TrialState

from cifarblocks.training.compare.launch import TRAIN, command_line, parse
from cifarblocks.training.compare.study import ENDED, Space, open_study, read_range, try_values
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.options.command_line import Parser, folder_name, integer, number
from cifarblocks.training.options.declared import Options
from cifarblocks.training.pictures.study import draw_study
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.stopping import exit_status, stop_on_signals


@dataclass(frozen=True)
class Plan:
    """A search: what is searched, for how long, on how much, and where it is written."""

    space: Space
    trials: int
    share: float
    patience: int
    seed: int
    output: Path
    name: str | None


@runs.releasing_locks()
def search(plan: Plan, arguments: list[str]) -> list[str]:
    """Try values until there are enough trials; return the arguments of `cifarblocks train` with the best of them."""
    trained = check_space(plan.space, arguments)
    space = {key: whole_numbers(key, distribution, arguments) for key, distribution in plan.space.items()}
    folder = plan.output / (plan.name or trained.model)
    folder.mkdir(parents=True, exist_ok=True)
    runs.lock(folder)
    own = {"share": plan.share, "patience": plan.patience, "seed": plan.seed}
    study = open_study(folder / "study.db", {**trained.recorded("run", "data", "recipe"), **own}, space, trained.epochs)
    print(describe_space(space, plan), flush=True)
    while (ended := len(study.get_trials(states=ENDED))) < plan.trials:
        # Seeded anew for each trial, so that a study that was cut off goes on as it would have.
        study.sampler = optuna.samplers.TPESampler(seed=plan.seed + ended)
        outcome = try_values(study, space, folder, [*arguments, "--share", str(plan.share)], plan.patience)
        print(f"trial {ended + 1}/{plan.trials}: {outcome}", flush=True)
        draw_study(folder / "study.png", f"{trained.model}: {folder}", study.get_trials(states=ENDED), space)
    return [*arguments, *report_best(study, folder)]


def check_space(space: Space, arguments: list[str]) -> Options:
    """Return the options without what is searched; both ends of every range must be values that it takes."""
    if not space:
        raise UserError("--search NAME=LOW..HIGH says what to search for; give one at least")
    trained = parse(arguments)
    if trained.final:
        raise UserError("--final holds no images out, and values are chosen on those")
    for key, distribution in space.items():
        if key == "seed":
            raise UserError("--search seed: all trials have the --seed of the search")
        if f"--{key}" in arguments:
            raise UserError(f"--search {key}: --{key} is given too")
        ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
        for value in map(typed, ends):
            parse([*arguments, *command_line({key: value})], f"--search {key}={value}: ")
    return trained


def typed(value: Any) -> Any:
    """Return a number without a fraction as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_numbers(key: str, distribution: BaseDistribution, arguments: list[str]) -> BaseDistribution:
    """Return a range of whole numbers alone, where the option takes no others."""
    if not isinstance(distribution, FloatDistribution):
        return distribution
    low, high = typed(distribution.low), typed(distribution.high)
    try:
        parse([*arguments, *command_line({key: distribution.low + 0.5})])
    except UserError:
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=distribution.log)
    return distribution


def describe_space(space: Space, plan: Plan) -> str:
    """Return what is searched, human-readable."""
    lines = [f"on {100 * plan.share:g} % of the training images, patience {plan.patience} epochs"]
    for key, distribution in space.items():
        scale = " on a logarithmic scale" if getattr(distribution, "log", False) else ""
        choices = getattr(distribution, "choices", None)
        among = ", ".join(map(str, choices)) if choices else f"{distribution.low:g} to {distribution.high:g}"
        lines.append(f"{key}: {among}{scale}")
    return "\n".join(lines)


def report_best(study: Study, folder: Path) -> list[str]:
    """Print what is best, and the command that trains with it: the arguments that say so."""
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise RunError(f"no trial was completed; {folder} has their logs")
    best = study.best_trial
    print(f"best validation loss {best.value:.4f}, in {best.user_attrs['folder']}; drawn in {folder / 'study.png'}")
    return command_line(best.user_attrs["values"])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a search that failed, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks search", __doc__, usage="--search NAME=LOW..HIGH [options]")
    add = parser.add_argument
    add("--search", metavar="NAME=LOW..HIGH", type=read_range, action="append", default=[],
        help="an option, or model-argument.NAME, and its range; on a logarithmic scale where HIGH is 10 times LOW or "
        "more; or NAME=ONE,OTHER; may be repeated")  # fmt: skip
    add("--trials", type=integer(1), default=20, help="how many, with those of before (default: %(default)s)")
    add("--share", type=number(0, 1), default=0.2, help="of the training images (default: %(default)s)")
    add("--patience", type=integer(1), default=5,
        help="a trial ends after so many epochs without a lower validation loss (default: %(default)s)")  # fmt: skip
    add("--seed", type=integer(0, 2**31), default=0, help="of training and of the search (default: %(default)s)")
    add("--name", type=folder_name, help="of the study (default: the model's)")
    add("--output", type=Path, default=Path("runs/search"), help="the study is OUTPUT/NAME (default: %(default)s)")
    add("--train", action="store_true", help="train with the best values, at the end")
    given, others = parser.parse_known_args(arguments)
    if given.share == 0:
        parser.error("--share must be above 0, got 0.0")
    plan = Plan(dict(given.search), given.trials, given.share, given.patience, given.seed, given.output, given.name)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stop_on_signals()

    def work() -> None:
        best = search(plan, [*others, "--seed", str(plan.seed)])
        print(f"to train with it:\n  {shlex.join(['cifarblocks', 'train', *best])}", flush=True)
        if given.train:
            os.execv(sys.executable, [sys.executable, *TRAIN, *best])

    return exit_status("cifarblocks search", work, "the same command goes on")
