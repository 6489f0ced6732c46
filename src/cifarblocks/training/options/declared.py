"""The options of a run: each is declared once, and the parser, the recipes and the records are made from that."""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cifarblocks.training.data.policies import policy_name
from cifarblocks.training.options.command_line import folder_name, integer, named_value, number

# Options of the run, of the data, those that a recipe may set too, and what a run begins from decide its result. Places
# (where the run is, whether it is resumed and tested) and upkeep may change when it is resumed.
DECISIVE = ("run", "data", "recipe", "begun")
SWITCH: dict[str, Any] = {"action": BooleanOptionalAction}
FLAG: dict[str, Any] = {"action": "store_true"}


def option(
    kind: str,
    default: Any,
    help: str,
    group: str = "",
    *,
    of_optimizer: bool = False,
    frozen: bool = True,
    **arguments: Any,
) -> Any:
    """Declare an option.

    Args:
        kind: run, data, recipe, begun, place or upkeep.
        default: Its value if neither the command line nor the recipe says one; None if that is left open.
        help: A line of `--help`; the default follows it, unless the line says it.
        group: The heading of `--help` that it stands under; that of the option before, if empty.
        of_optimizer: True if a recipe's value is for the recipe's optimizer alone.
        frozen: False if it changes nothing where the last layer is trained on features.
        arguments: Further arguments of argparse's `add_argument`.
    """
    end = "" if "(default" in help or default is None or default is False or default == {} else f" (default: {default})"
    told = {"kind": kind, "default": default, "group": group, "of_optimizer": of_optimizer, "frozen": frozen}
    return field(metadata={**told, "arguments": {"help": help + end, **arguments}})


RGB: dict[str, Any] = {"nargs": 3, "metavar": ("R", "G", "B")}


# ruff: noqa: RUF009 - each default is an option, not a value
@dataclass(frozen=True, kw_only=True)
class Options:
    """The whole configuration of a run; `options.parse` makes it from a command line."""

    model: str = option("run", "eca_resnet_20", "a name that `cifarblocks list` prints", "model and run")
    model_argument: dict[str, Any] = option("run", {}, "an argument of the model, e.g. kernel_size=5; repeatable",
        type=named_value, action="append", metavar="NAME=VALUE")  # fmt: skip
    recipe: str = option("run", None, "a recipe of recipes.toml (default: that of the model's family)")
    seed: int = option("run", 0, "draws initial weights, order and augmentation", type=integer(0, 2**63 - 1))
    final: bool = option("run", False, "train on all training images, none are validation images", **FLAG)
    share: float = option("run", 1.0, "share of the training images, the same of each class", type=number(0, 1))
    no_test: bool = option("place", False, "leave the test images alone; repeat without it to test", **FLAG)

    data: str = option("data", "digits", "digits, cifar10, cifar100 or folder:PATH", "data")
    data_dir: Path = option("upkeep", Path("data"), "holds CIFAR and decoded folders", type=Path)
    image_size: int | None = option("data", None, "height and width of every image, made RGB (default: as they are)",
        type=integer(1, 4096))  # fmt: skip
    mean: list[float] | None = option("run", None, "subtracted from each channel (default: that of the images)",
        type=number(0, 1), **RGB)  # fmt: skip
    std: list[float] | None = option("run", None, "each channel is divided by it (default: that of the images)",
        type=number(1 / 255, 1), **RGB)  # fmt: skip

    output: Path = option("place", Path("runs"), "the run is written to OUTPUT/MODEL/NAME", "files", type=Path)
    name: str | None = option("place", None, "name of the run (default: the date and time)", type=folder_name)
    resume: bool = option("place", False, "go on with the run of that --name, or begin it", **FLAG)
    checkpoint_steps: int = option("upkeep", 0, "steps between checkpoints (default: 0, one each epoch)",
        type=integer(0))  # fmt: skip
    tensorboard: bool = option("upkeep", False, "write the metrics for TensorBoard too", **FLAG)

    epochs: int = option("recipe", 20, "passes over the training images", "optimization", type=integer(1))
    batch_size: int = option("recipe", 64, "global batch size, split over the processes", type=integer(1))
    accumulate: int = option("recipe", 1, "parts of a batch, computed one by one to save memory", type=integer(1))
    optimizer: str = option("recipe", "sgd", "muon moves filters in orthogonal steps, the rest by SGD",
        choices=("adamw", "muon", "sgd"))  # fmt: skip
    eps: float | None = option("recipe", None, "of adamw (default: 1e-8)", type=number(0), of_optimizer=True)
    lr: float = option("recipe", None, "peak rate per 256 images (default: 0.8, adamw 0.001, 0.08 without BatchNorm)",
        type=number(0), of_optimizer=True)  # fmt: skip
    muon_share: float | None = option("recipe", None, "rate of muon's filters, as a share of the rest (default: 0.07)",
        type=number(0), of_optimizer=True, frozen=False)  # fmt: skip
    final_lr: float = option("recipe", 0.0, "where the cosine ends, per 256 images", type=number(0))
    schedule: str = option("recipe", "cosine", "after the warm-up", choices=("cosine", "constant"))
    warmup_epochs: float = option("recipe", None, "linear warm-up (default: 1, or a tenth of a run under 10 epochs)",
        type=number(0))  # fmt: skip
    layer_decay: float = option("recipe", 1.0, "rate of a block, as a share of that of the next", type=number(0, 1),
        frozen=False)  # fmt: skip
    weight_decay: float = option(
        "recipe", None, "of filters and matrices (default: 0.0005, adamw 0.05)", type=number(0), of_optimizer=True
    )
    clip: float = option("recipe", 0.0, "largest norm of the gradient (default: 0, not clipped)", type=number(0))
    ema: float = option("recipe", 0.0, "decay a step of an average of the weights (default: 0, none)",
        type=number(0, 1))  # fmt: skip

    label_smoothing: float = option("recipe", 0.0, "of the one-hot targets", "regularisation", type=number(0, 1))
    drop_path: float | None = option("recipe", None, "of the model (default: the model's)", type=number(0, 1),
        frozen=False)  # fmt: skip
    dropout: float | None = option("recipe", None, "of the model (default: the model's)", type=number(0, 1),
        frozen=False)  # fmt: skip
    mirror: bool | None = option("recipe", None, "mirror each image every other epoch (default: not for digits)",
        **SWITCH)  # fmt: skip
    shift: float = option("recipe", 0.0, "largest shift of the crop, as a share of the side", type=number(0, 0.5),
        frozen=False)  # fmt: skip
    policy: str = option("recipe", "none", "trivial (TrivialAugmentWide) or rand-N-M (RandAugment)", type=policy_name,
        frozen=False)  # fmt: skip
    erasing: float = option("recipe", 0.0, "probability of random erasing", type=number(0, 1), frozen=False)
    mixup: float = option("recipe", 0.0, "alpha of mixup (default: 0, none)", type=number(0), frozen=False)
    cutmix: float = option("recipe", 0.0, "alpha of CutMix (default: 0, none); with --mixup, each half of the batches",
        type=number(0), frozen=False)  # fmt: skip
    mix_probability: float = option("recipe", 1.0, "share of the batches that are mixed", type=number(0, 1),
        frozen=False)  # fmt: skip

    precision: str = option("recipe", "auto", "auto is bfloat16 autocast where the hardware has it", "hardware",
        choices=("auto", "bfloat16", "float32", "float64"))  # fmt: skip
    sync_batchnorm: bool = option("recipe", False, "BatchNorm over the batches of all GPUs", frozen=False, **SWITCH)
    gradient_checkpointing: bool = option("recipe", False, "compute blocks again to save memory", frozen=False,
        **SWITCH)  # fmt: skip
    accelerate: bool | None = option("recipe", None, "cifarblocks.accelerate (default: on a CPU)", **SWITCH)
    compile: bool = option("recipe", False, "torch.compile, which takes a minute at first", frozen=False, **SWITCH)

    # What `cifarblocks finetune` begins from: a hash of the weights, and the library that published them.
    weights: str | None = option("begun", None, "")
    source: str | None = option("begun", None, "")
    freeze: bool = option("begun", False, "")

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the model: those of --model-argument, and --drop-path and --dropout where given."""
        rates = {"drop_path": self.drop_path, "dropout": self.dropout}
        return {**self.model_argument, **{name: rate for name, rate in rates.items() if rate is not None}}

    def recorded(self, *kinds: str) -> dict[str, Any]:
        """Return the options of some kinds, of those that decide the result by default."""
        return {name: getattr(self, name) for name, told in DECLARED.items() if told["kind"] in (kinds or DECISIVE)}


DECLARED = {each.name: each.metadata for each in fields(Options)}


def add_options(parser: ArgumentParser, kinds: Collection[str]) -> None:
    """Add the options of some kinds to a parser; those that are not typed are left out of what it gives."""
    title, groups = "", {}
    for name, told in DECLARED.items():
        title = told["group"] or title
        if told["kind"] in kinds:
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            groups[title].add_argument(flag(name), default=SUPPRESS, **shown(name))


def add_data_options(parser: ArgumentParser) -> None:
    """Add `--data`, `--data-dir` and `--image-size` with their defaults to a parser."""
    group = parser.add_argument_group("data")
    for name in ("data", "data_dir", "image_size"):
        group.add_argument(flag(name), default=DECLARED[name]["default"], **shown(name))


def shown(name: str) -> dict[str, Any]:
    """Return argparse's arguments of an option; its last word stands for the value in the help."""
    arguments = DECLARED[name]["arguments"]
    valued = "type" in arguments and "metavar" not in arguments
    return {**arguments, "metavar": name.rpartition("_")[2].upper()} if valued else arguments


def flag(name: str) -> str:
    """Return an option as it is typed.

    >>> flag("weight_decay")
    '--weight-decay'
    """
    return f"--{name.replace('_', '-')}"
