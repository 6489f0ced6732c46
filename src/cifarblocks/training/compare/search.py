"""A search: trials of a study, started by any number of processes, and the best of them."""

import time
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study
from optuna.trial import TrialState

from cifarblocks.training.compare.claims import POLL
from cifarblocks.training.compare.launch import command_line
from cifarblocks.training.compare.space import Space, check_space, describe_space, whole_numbers
from cifarblocks.training.compare.study import ENDED, next_trial, open_study
from cifarblocks.training.compare.trial import try_values
from cifarblocks.training.errors import RunError
from cifarblocks.training.output import escaped
from cifarblocks.training.pictures.study import draw_study


@dataclass(frozen=True)
class Plan:
    """Settings of a search: space, trials, share of the images, patience, seed and place."""

    space: Space
    trials: int
    share: float
    patience: int
    seed: int
    output: Path
    name: str | None
    storage: str | None


def search(plan: Plan, arguments: list[str]) -> list[str]:
    """Try values until there are enough trials; return the arguments of `cifarblocks train` with the best of them."""
    trained = check_space(plan.space, arguments)
    space = {key: whole_numbers(key, distribution, arguments) for key, distribution in plan.space.items()}
    folder = plan.output / (plan.name or trained.model)
    folder.mkdir(parents=True, exist_ok=True)
    own = {"share": plan.share, "patience": plan.patience, "seed": plan.seed}
    learnt = {"teacher_weights": trained.teacher_weights}
    settings = {**trained.recorded("run", "data", "recipe"), **learnt, **own}
    study = open_study(folder, plan.storage, settings, space)
    print(f"on {100 * plan.share:g} % of the training images, patience {plan.patience} epochs", flush=True)
    print(describe_space(space), flush=True)
    told = False
    while len(study.get_trials(deepcopy=False, states=ENDED)) < plan.trials:
        with next_trial(study, space, folder, plan.trials, plan.seed) as trial:
            if trial is not None:
                outcome = try_values(study, trial, folder, [*arguments, "--share", str(plan.share)], plan.patience)
                ended = study.get_trials(states=ENDED)
                print(f"trial {len(ended)}/{plan.trials}: {outcome}", flush=True)
                draw_study(folder / "study.png", escaped(f"{trained.model}: {folder}"), ended, space)
            else:
                if not told:
                    print("waiting for the last trials of other processes", flush=True)
                told = True
                time.sleep(POLL)
    return [*arguments, *report_best(study, folder)]


def report_best(study: Study, folder: Path) -> list[str]:
    """Print the best values and the command that trains with them; return its arguments."""
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise RunError(f"no trial was completed; {folder} has their logs")
    best = study.best_trial
    print(f"best validation loss {best.value:.4f}, in {best.user_attrs['folder']}; drawn in {folder / 'study.png'}")
    return command_line(best.user_attrs["values"])
