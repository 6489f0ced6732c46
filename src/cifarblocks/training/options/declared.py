"""The options that a recipe may set: how a model is trained."""

import argparse

from cifarblocks.training.data.policies import policy_name
from cifarblocks.training.options.readers import integer, number

PRECISIONS = ("auto", "bfloat16", "float32", "float64")
WEIGHT_DECAYS = {"sgd": 5e-4, "muon": 5e-4, "adamw": 0.05}
# For 30 epochs of eca_resnet_20 the best of 0.05, 0.07, 0.1 and 0.15, on images held out.
MUON_SHARE = 0.07


def recipe_options() -> list[str]:
    """Names of the options that a recipe may set."""
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return list(vars(parser.parse_args([])))


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that a recipe may set."""
    group = parser.add_argument_group("recipe", "what a recipe may set; the defaults are for what it leaves out")
    add, switch = group.add_argument, argparse.BooleanOptionalAction
    add("--epochs", type=integer(1), default=20, help="passes over the training images (default: %(default)s)")
    add("--batch-size", type=integer(1), default=64,
        help="global batch size, split over the processes (default: %(default)s)")  # fmt: skip
    add("--accumulate", type=integer(1), default=1,
        help="compute a batch in so many parts one by one, to save memory (default: %(default)s)")  # fmt: skip
    add("--optimizer", choices=sorted(WEIGHT_DECAYS), default="sgd",
        help="muon moves filters in orthogonal steps and the rest by SGD (default: %(default)s)")  # fmt: skip
    add("--eps", type=number(0), help="AdamW's (default: 1e-8)")
    add("--lr", type=number(0), help="peak learning rate per 256 images of the global batch "
        "(default: 0.001 for adamw, 0.8 for sgd and muon, 0.08 for them on a network without BatchNorm)")  # fmt: skip
    add("--muon-share", type=number(0),
        help="learning rate of the filters that muon moves, as a share of that of the rest "
        f"(default: {MUON_SHARE})")  # fmt: skip
    add("--final-lr", type=number(0), default=0.0, help="where the cosine ends, per 256 images (default: %(default)s)")
    add("--schedule", choices=("cosine", "constant"), default="cosine", help="after the warm-up (default: %(default)s)")
    add("--warmup-epochs", type=number(0), help="linear warm-up (default: 1, or a tenth of a run of under 10 epochs)")
    add("--layer-decay", type=number(0, 1), default=1.0,
        help="each block learns at this share of the rate of the block after it (default: %(default)s)")  # fmt: skip
    add("--weight-decay", type=number(0), help="(default: 0.0005 for sgd and muon, 0.05 for adamw)")
    add("--clip", type=number(0), default=0.0, help="largest norm of the gradient (default: 0, not clipped)")
    add("--ema", type=number(0, 1), default=0.0,
        help="decay a step of an average of the weights, tested beside them (default: 0, none)")  # fmt: skip
    add("--label-smoothing", type=number(0, 1), default=0.0, help="(default: %(default)s)")
    add("--drop-path", type=number(0, 1), help="of the model (default: the model's)")
    add("--dropout", type=number(0, 1), help="of the model (default: the model's)")
    add("--mirror", action=switch, help="mirror each training image every other epoch (default: not for digits)")
    add("--shift", type=number(0, 0.5), default=0.0,
        help="largest shift of the random crop, as a share of height and width (default: %(default)s)")  # fmt: skip
    add("--policy", type=policy_name, default="none",
        help="trivial for TrivialAugmentWide, rand-N-M for RandAugment of N operations and magnitude M from 0 to 30, "
        "drawn for each image (default: %(default)s)")  # fmt: skip
    add("--erasing", type=number(0, 1), default=0.0, help="probability of random erasing (default: %(default)s)")
    add("--mixup", type=number(0), default=0.0, help="alpha of mixup (default: 0, none)")
    add("--cutmix", type=number(0), default=0.0,
        help="alpha of CutMix; beside --mixup, each has half of the batches (default: 0, none)")  # fmt: skip
    add("--mix-probability", type=number(0, 1), default=1.0,
        help="share of the batches that are mixed (default: %(default)s)")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="auto",
        help="bfloat16 is autocast; auto takes it where the hardware has it (default: %(default)s)")  # fmt: skip
    add("--sync-batchnorm", action=switch, default=False, help="BatchNorm over the batches of all GPUs together")
    add("--gradient-checkpointing", action=switch, default=False, help="keep each block's input alone, to save memory")
    add("--accelerate", action=switch, help="cifarblocks.accelerate: faster layers on a CPU (default: on a CPU)")
    add("--compile", action=switch, default=False, help="torch.compile: a minute to begin with, then faster on a GPU")
