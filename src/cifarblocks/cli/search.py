"""Search for the learning rate, or any other value, on validation images: Optuna's TPE with pruning.

    cifarblocks search --search lr=0.01..3 --epochs 10 --trials 12        # the digits, about 5 minutes
    cifarblocks search --data cifar10 --model resnet_20 --search lr=0.05..5 --search weight_decay=1e-5..1e-2
    cifarblocks search --search optimizer=sgd,adamw --search model-argument.drop_path=0..0.3 --train

Every option of `cifarblocks train` may be given too. Each trial trains on a share of the training images and is
measured on the validation images. The test images are not used. A trial ends early if it is worse than the median of
the earlier trials, or does not improve for some epochs. Repeat the command to continue the study, also with more
--trials. Several of these commands share the trials, on one machine or many. On many, pass the same --storage, and an
--output on a shared disk. The last line printed is the command that trains with the best values on all images; --train
runs it.
"""

import os
import shlex
import sys
import warnings
from pathlib import Path

import optuna

from cifarblocks.training.compare.launch import TRAIN
from cifarblocks.training.compare.search import Plan, search
from cifarblocks.training.compare.space import read_range
from cifarblocks.training.options.command_line import Parser, folder_name, integer, new_path, number
from cifarblocks.training.stopping import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a search that failed, or 2 for a command that cannot work."""
    parser = Parser("cifarblocks search", __doc__, usage="--search NAME=LOW..HIGH [options]")
    add = parser.add_argument
    add("--search", metavar="NAME=LOW..HIGH", type=read_range, action="append", default=[],
        help="an option, or model-argument.NAME, and its range; on a logarithmic scale where HIGH is 10 times LOW or "
        "more; or NAME=ONE,OTHER; may be repeated")  # fmt: skip
    add("--trials", type=integer(1), default=20, help="number of trials, earlier ones included (default: %(default)s)")
    add("--share", type=number(0, 1), default=0.2,
        help="share of the training images in a trial (default: %(default)s)")  # fmt: skip
    add("--patience", type=integer(1), default=5,
        help="epochs without a lower validation loss after which a trial ends (default: %(default)s)")  # fmt: skip
    add("--seed", type=integer(0, 2**31), default=0,
        help="seed of the training and of the search (default: %(default)s)")  # fmt: skip
    add("--name", type=folder_name, help="name of the study (default: the model's)")
    add("--output", type=new_path, default=Path("runs/search"),
        help="the study is in OUTPUT/NAME (default: %(default)s)")  # fmt: skip
    add("--storage", metavar="URL",
        help="where Optuna keeps the study: the path of a journal file, or a database such as "
        "postgresql://HOST/DATABASE; any number of processes may share it (default: OUTPUT/NAME/study.db)")  # fmt: skip
    add("--train", action="store_true", help="train with the best values, at the end")
    given, others = parser.parse_known_args(arguments)
    if given.share == 0:
        parser.error("--share must be above 0, got 0.0")
    own = (given.trials, given.share, given.patience, given.seed, given.output, given.name, given.storage)
    plan = Plan(parser.by_name("--search", given.search), *own)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna 4 says it of constant_liar

    def work() -> None:
        best = search(plan, [*others, "--seed", str(plan.seed)])
        print(f"to train with it:\n  {shlex.join(['cifarblocks', 'train', *best])}", flush=True)
        if given.train:
            os.execv(sys.executable, [sys.executable, *TRAIN, *best])

    return exit_status("cifarblocks search", work, "repeat the command to continue")
