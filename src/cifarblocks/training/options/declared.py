"""The options of a run, each declared once; the parser, the recipes and the records are made from them."""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from cifarblocks.training.data.policies import policy_name
from cifarblocks.training.data.sources import SOURCES
from cifarblocks.training.device import DEVICES
from cifarblocks.training.options.command_line import folder_name, integer, named_value, new_path, number

# Options of the run, of the data, those that a recipe may set too, and what a run begins from decide its result. Places
# (where the run is, whether it is resumed and tested) and upkeep may change when it is resumed.
DECISIVE = ("run", "data", "recipe", "begun")
SWITCH: dict[str, Any] = {"action": BooleanOptionalAction}
FLAG: dict[str, Any] = {"action": "store_true"}


def option(
    kind: str,
    default: Any,
    help: str,
    read: Callable[[str], Any] | None = None,
    *,
    group: str = "",
    of_optimizer: bool = False,
    frozen: bool = True,
    **arguments: Any,
) -> Any:
    """Declare an option.

    Args:
        kind: run, data, recipe, begun, place or upkeep.
        default: Its value without one on the command line or in the recipe; None if it depends on the data.
        help: A line of `--help`; the default follows it, unless the line says it.
        read: Reader of the value on the command line.
        group: Its heading in `--help`. Default: the heading of the option before.
        of_optimizer: True if a recipe's value is only for the recipe's optimizer.
        frozen: False if it has no effect with --freeze.
        arguments: Further arguments of argparse's `add_argument`.
    """
    end = "" if "(default" in help or default is None or default is False or default == {} else f" (default: {default})"
    text = help + end
    if kind == "recipe":
        text = text.replace("(default: ", "(default: the recipe's, else ")
    reader = {"type": read} if read else {}
    told = {"kind": kind, "default": default, "group": group, "of_optimizer": of_optimizer, "frozen": frozen}
    return field(metadata={**told, "arguments": {"help": text, **reader, **arguments}})


of_recipe = partial(option, "recipe")
of_network = partial(option, "recipe", frozen=False)  # of the network below its last layer, or of its images
of_optimizer = partial(option, "recipe", of_optimizer=True)
OPTIMIZERS = ("adamw", "muon", "muon_adamw", "sgd")
PRECISIONS = ("auto", "bfloat16", "float32", "float64")
REPEATED: dict[str, Any] = {"action": "append", "metavar": "NAME=VALUE"}
METAVARS = {"int": "N", "float": "X", "Path": "PATH"}
TEACHER: dict[str, Any] = {"group": "distillation", "frozen": False, "metavar": "NAME_OR_FILE"}
RGB: dict[str, Any] = {"nargs": 3, "metavar": ("R", "G", "B")}


# ruff: noqa: RUF009 - each default is an option, not a value
@dataclass(frozen=True, kw_only=True)
class Options:
    """The whole configuration of a run, made by `options.parse` from a command line."""

    model: str = option("run", "eca_resnet_20", "a name that `cifarblocks list` prints", group="model and run")
    model_argument: dict[str, Any] = option(
        "run", {}, "an argument that `cifarblocks show MODEL` prints, repeatable", named_value, **REPEATED
    )
    recipe: str = option("run", None, "a recipe of recipes.toml (default: the one of the model's family)")
    seed: int = option("run", 0, "seed of initial weights, order and augmentation", integer(0, 2**63 - 1))
    final: bool = option("run", False, "train on all training images, without validation images", **FLAG)
    share: float = option("run", 1.0, "share of the training images to use, the same for each class", number(0, 1))
    no_test: bool = option(
        "place", False, "do not score the test images yet; repeat the command without it to do so", **FLAG
    )

    data: str = option("data", "digits", f"{SOURCES}; a name wins over a folder", group="data")
    data_dir: Path = option(
        "upkeep", Path("data"), "folder for downloads and decoded images, not your images", new_path
    )
    image_size: int | None = option(
        "data", None, "height and width (default: their own, 64 if they differ or exceed 256)", integer(1, 4096)
    )
    mean: list[float] | None = option("run", None, "mean of each channel (default: of the images)", number(0, 1), **RGB)
    std: list[float] | None = option(
        "run", None, "standard deviation of each channel (default: of the images)", number(1 / 255, 1), **RGB
    )

    output: Path = option("place", Path("runs"), "the run is written to OUTPUT/MODEL/NAME", new_path, group="files")
    name: str | None = option("place", None, "name of the run (default: the date and time)", folder_name)
    resume: bool = option("place", False, "continue the run --name, or start it if there is none", **FLAG)
    checkpoint_steps: int = option("upkeep", 0, "steps between checkpoints (default: 0, one per epoch)", integer(0))
    tensorboard: bool = option("upkeep", False, "write the metrics for TensorBoard too", **FLAG)

    epochs: int = of_recipe(20, "passes over the images; more for few images", integer(1), group="optimization")
    batch_size: int = of_recipe(64, "global batch size, over all processes; smaller for few images", integer(1))
    accumulate: int = of_recipe(1, "parts of a batch, computed one by one to save memory", integer(1))
    optimizer: str = of_recipe(
        "sgd", "muon is SGD with Muon for filters, muon_adamw is AdamW with Muon for matrices", choices=OPTIMIZERS
    )
    eps: float | None = of_optimizer(None, "epsilon of adamw (default: 1e-8)", number(0))
    lr: float = of_optimizer(
        None,
        "peak learning rate per 256 images (default: 0.8, 0.08 without BatchNorm, adamw 0.001, muon_adamw 0.004)",
        number(0),
    )
    muon_share: float | None = of_optimizer(
        None, "learning rate of orthogonal steps, as a share of --lr (default: 0.07, muon_adamw 1)", number(0)
    )
    final_lr: float = of_recipe(0.0, "learning rate at the end of the cosine, per 256 images", number(0))
    schedule: str = of_recipe("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    warmup_epochs: float = of_recipe(None, "epochs of warm-up (default: 1, or a tenth of --epochs below 10)", number(0))
    layer_decay: float = of_network(1.0, "learning rate of a block, as a share of the next block's", number(0, 1))
    weight_decay: float = of_optimizer(
        None, "weight decay of filters and matrices (default: 0.0005, adamw 0.05)", number(0, 10)
    )
    clip: float = of_recipe(0.0, "largest norm of the gradient (default: 0, not clipped)", number(0))
    ema: float = of_recipe(0.0, "decay per step of an average of the weights (default: 0, none)", number(0, 1))

    label_smoothing: float = of_recipe(0.0, "smoothing of the one-hot targets", number(0, 1), group="regularisation")
    drop_path: float | None = of_network(None, "drop path rate (default: the model's)", number(0, 1))
    dropout: float | None = of_network(None, "dropout rate (default: the model's)", number(0, 1))
    mirror: bool | None = of_recipe(None, "mirror each image every other epoch (default: not for digits)", **SWITCH)
    shift: float = of_network(0.0, "largest shift of the crop, as a share of the image's side", number(0, 0.5))
    policy: str = of_network("none", "trivial (TrivialAugmentWide) or rand-N-M (RandAugment)", policy_name)
    erasing: float = of_network(0.0, "probability of random erasing", number(0, 1))
    mixup: float = of_network(0.0, "alpha of mixup (default: 0, none)", number(0))
    cutmix: float = of_network(0.0, "alpha of CutMix, in half of the batches with mixup (default: 0, none)", number(0))
    mix_probability: float = of_network(1.0, "share of the batches that are mixed", number(0, 1))

    teacher: str | None = option("upkeep", None, "trained weights to learn from: a file or a name", **TEACHER)
    teacher_weights: str | None = option("begun", None, "")  # a hash of the file, wherever it lies
    distillation: float | None = of_network(None, "share of the teacher in the loss (default: 0.9)", number(0, 1))
    temperature: float | None = of_network(
        None, "divides the logits of teacher and student (default: 4)", number(0.01, 1000)
    )

    device: str | None = option(
        "upkeep",
        None,
        "device (default: cuda if there is a GPU); CUDA_VISIBLE_DEVICES chooses the GPU",
        choices=DEVICES,
        group="hardware",
    )
    precision: str = of_recipe("auto", "auto: bfloat16 if it is fast", choices=PRECISIONS)
    sync_batchnorm: bool = of_network(False, "compute BatchNorm over all GPUs", **SWITCH)
    gradient_checkpointing: bool = of_network(False, "recompute blocks in the backward pass, to save memory", **SWITCH)
    accelerate: bool | None = of_recipe(None, "faster layers with the same weights (default: on a CPU)", **SWITCH)
    compile: bool = of_network(False, "torch.compile, which takes a minute at first", **SWITCH)

    # What `cifarblocks finetune` begins from: a hash of the weights, and the library that published them.
    weights: str | None = option("begun", None, "")
    source: str | None = option("begun", None, "")
    freeze: bool = option("begun", False, "")

    # No option: the names of the options given. The recipe and the defaults set the others.
    typed: frozenset[str] = frozenset()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the model: those of --model-argument, and --drop-path and --dropout where given."""
        rates = {"drop_path": self.drop_path, "dropout": self.dropout}
        return {**self.model_argument, **{name: rate for name, rate in rates.items() if rate is not None}}

    @property
    def teacher_name(self) -> str | None:
        """Name of the teacher, or of its file without the folders."""
        return None if self.teacher is None else Path(self.teacher).name

    def recorded(self, *kinds: str) -> dict[str, Any]:
        """Return the options of some kinds, of those that decide the result by default."""
        return {name: getattr(self, name) for name, told in DECLARED.items() if told["kind"] in (kinds or DECISIVE)}


DECLARED = {each.name: each.metadata for each in fields(Options) if each.metadata}


def add_options(parser: ArgumentParser, kinds: Collection[str]) -> None:
    """Add the options of some kinds to a parser; its result leaves out those that are not given."""
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
    """Return argparse's arguments of an option; N, X or PATH stands for a number or a path in the help."""
    arguments = DECLARED[name]["arguments"]
    if arguments.keys() & {"action", "choices", "metavar"}:
        return arguments
    letters = [letter for kind, letter in METAVARS.items() if kind in str(Options.__annotations__[name])]
    return {**arguments, "metavar": letters[0] if letters else name.upper()}


def flag(name: str) -> str:
    """Return an option as it is written on the command line.

    >>> flag("weight_decay")
    '--weight-decay'
    """
    return f"--{name.replace('_', '-')}"
