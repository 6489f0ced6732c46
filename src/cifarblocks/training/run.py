"""The parts of a run, made from its options once, before it begins."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cifarblocks
from cifarblocks.checkpoints.own import Card
from cifarblocks.models.classifier import Classifier
from cifarblocks.training.data.batches import Augmentation, Batches, ImageBatches, Normalisation
from cifarblocks.training.data.datasets import DataSet, Images, hold_out, load_data, share_of
from cifarblocks.training.data.mixing import Mixing
from cifarblocks.training.data.policies import build_policy
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.distillation import Distillation, Loss, load_teacher
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError, refusing
from cifarblocks.training.hardware import supports_bfloat16
from cifarblocks.training.models import build_model, has_batch_norm
from cifarblocks.training.optim.groups import build_optimizer
from cifarblocks.training.optim.schedule import Schedule
from cifarblocks.training.options.declared import Options
from cifarblocks.training.run_folder.folder import make_run_folder, open_run
from cifarblocks.training.run_folder.report import configuration
from cifarblocks.training.state import State, moving_average

LEAST_STEPS = 300  # of a recipe on few images

Build = Callable[[str, dict[str, Any], DataSet], tuple[Classifier, dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        options: The whole configuration, for the records.
        processes: Those that train together.
        data: The data set.
        batches: The training, validation and test batches.
        card: Card of the weights files, without the epoch.
        record: Configuration as it is written to files.
        folder: Folder of the run.
        state: State of the training, which changes with each step.
        schedule: The learning rate of each step.
        autocast: The precision to compute in.
        loss: The loss of a batch, summed over its images.
        accumulate: Parts of a batch that are computed one by one.
        clip: Largest norm of the gradient; 0 for none.
        checkpoint_steps: Steps between checkpoints; 0 for one each epoch.
        compiled: True to train the compiled network.
        trained: The part of the model that is trained; the whole, or its last layer.
    """

    options: Options
    processes: Processes
    data: DataSet
    batches: Batches
    card: Card
    record: dict[str, Any]
    folder: Path
    state: State
    schedule: Schedule
    autocast: torch.autocast
    loss: Loss
    accumulate: int
    clip: float
    checkpoint_steps: int
    compiled: bool
    trained: Callable[..., nn.Module]

    def network(self) -> nn.Module:
        """Return the network for training: wrapped for other processes, and compiled with --compile."""
        network = self.processes.distributed(self.trained(self.state.model))
        return torch.compile(network) if self.compiled else network  # type: ignore[return-value]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep other processes out of the folder of the run, and write its configuration, or check it.

        Raises:
            InUseError: If another process trains the run.
            UserError: If the run was begun with other options or data.
        """
        with ExitStack() as held:
            self.processes.first_decides(lambda: held.enter_context(open_run(self.folder, self.record)))
            yield


def prepare(options: Options, processes: Processes, build: Build = build_model) -> Run:
    """Read the data, build the model, make the folder of the run, and turn the options into parts.

    Args:
        options: The configuration; options that depend on the data are filled in.
        processes: Those that train together.
        build: Called as build(model, arguments, data) for the model with its first weights, and its arguments.

    Raises:
        UserError: If the options cannot work with the data.
    """
    device = processes.device
    data = processes.one_at_a_time(lambda: load_data(options.data, options.data_dir, options.image_size))
    training, validation = split(data.train, final=options.final, share=options.share)
    options = resolve(options, data, len(training), processes)
    dtype = torch.float64 if options.precision == "float64" else torch.float32
    batches = image_batches(options, data, training, validation, processes, dtype)
    torch.manual_seed(options.seed)
    model, arguments = build(options.model, options.arguments, data)
    check_fits(options, data, batches, model, processes)
    card = describe_weights(options, arguments, data)
    loss = build_loss(options, card, device, dtype)
    record = configuration(options.recorded(), data, processes) | {"teacher": options.teacher_name}
    folder = processes.first_decides(
        lambda: make_run_folder(options.output, options.model, options.name, resume=options.resume)
    )

    model = place(model, options, device, dtype)
    return Run(
        options=options,
        processes=processes,
        data=data,
        batches=batches,
        card=card,
        record=record,
        folder=folder,
        state=build_state(options, model, model),
        schedule=Schedule(
            epochs=options.epochs,
            steps=batches.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            final_lr=options.final_lr,
            warmup_epochs=options.warmup_epochs,
            shape=options.schedule,
        ),
        autocast=torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"),
        loss=loss,
        accumulate=options.accumulate,
        clip=options.clip,
        checkpoint_steps=options.checkpoint_steps,
        compiled=options.compile,
        trained=nn.Identity(),
    )


def describe_weights(options: Options, arguments: dict[str, Any], data: DataSet) -> Card:
    """Return the card of the weights files of a run, before its first epoch."""
    with refusing(f"--data {options.data}: "):
        return Card(
            model=options.model,
            arguments=arguments,
            classes=data.classes,
            image_size=data.image_size,
            mean=options.mean or [],
            std=options.std or [],
            precision=options.precision,
            data=data.name,
            epoch=0,
        )


def build_loss(options: Options, card: Card, device: torch.device, dtype: torch.dtype) -> Loss:
    """Return the loss: cross-entropy with the labels or, with a teacher, distillation.

    Raises:
        UserError: If the teacher cannot be read, or is for other classes or images of another size.
    """

    def cross_entropy(_: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=options.label_smoothing, reduction="sum")

    if options.teacher is None:
        return cross_entropy
    assert options.distillation is not None
    assert options.temperature is not None
    teacher = load_teacher(options.teacher, card)
    if options.accelerate:
        teacher = cifarblocks.accelerate(cifarblocks.fuse(teacher))
    teacher = teacher.to(device, dtype).to(memory_format=torch.channels_last)
    return Distillation(teacher, cross_entropy, options.distillation, options.temperature)


def place(model: Classifier, options: Options, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Return the model on the device, in the precision and with the layers of the options."""
    model.set_gradient_checkpointing(options.gradient_checkpointing)
    if options.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, dtype).to(memory_format=torch.channels_last)
    return cifarblocks.accelerate(model) if options.accelerate else model


def resolve(options: Options, data: DataSet, images: int, processes: Processes) -> Options:
    """Fill in the options that depend on the data, the number of training images, and the processes."""
    device = processes.device
    bfloat16 = "bfloat16" if supports_bfloat16(device) else "float32"
    mean, std = data.mean_and_std
    channels = options.arguments.get("in_channels", 3)
    return replace(
        fit_to_few_images(options, images, processes.world_size),
        precision=bfloat16 if options.precision == "auto" else options.precision,
        accelerate=device.type == "cpu" if options.accelerate is None else options.accelerate,
        mirror=data.mirror if options.mirror is None else options.mirror,
        mean=options.mean or mean[:channels],
        std=options.std or std[:channels],
    )


def fit_to_few_images(options: Options, images: int, processes: int) -> Options:
    """Fit a recipe to few images: smaller batches, and more epochs. Typed options stay.

    A reduced batch is the largest power of two that gives four batches, and at least 2 images per part and process.
    AdamW's steps keep their learning rate, because their size does not follow from the gradient's.
    """
    batch_size, lr, epochs = options.batch_size, options.lr, options.epochs
    if "batch_size" not in options.typed and images < 4 * batch_size:
        least = 2 * processes * options.accumulate
        fitting = 2 ** max(math.floor(math.log2(max(images // 4, 1))), math.ceil(math.log2(least)))
        batch_size = min(fitting, batch_size)
    if "lr" not in options.typed and options.optimizer in ("adamw", "muon_adamw"):
        lr *= options.batch_size / batch_size
    if "epochs" not in options.typed:
        epochs = max(epochs, math.ceil(LEAST_STEPS / max(images // batch_size, 1)))
    return replace(options, batch_size=batch_size, lr=lr, epochs=epochs)


def image_batches(
    options: Options, data: DataSet, training: Images, validation: Images, processes: Processes, dtype: torch.dtype
) -> ImageBatches:
    """Return the batches of the run, with the augmentation of its options."""
    mixing = Mixing(options.mixup, options.cutmix, options.mix_probability, len(data.classes))
    augmentation = Augmentation(
        bool(options.mirror),
        options.shift,
        options.erasing,
        build_policy(options.policy),
        mixing if options.mixup or options.cutmix else None,
    )
    return ImageBatches(
        training.to(processes.device),
        validation.to(processes.device),
        data.test,
        Normalisation(options.mean or [], options.std or [], processes.device, dtype),
        augmentation,
        options.batch_size,
        options.seed,
        processes.rank,
        processes.world_size,
    )


def split(images: Images, *, final: bool, share: float) -> tuple[Images, Images]:
    """Return a share of the training images, and the validation images, which are none with --final."""
    none = images[torch.arange(0)]
    training, validation = (images, none) if final else hold_out(images, random_stream("hold out"))
    return share_of(training, share, random_stream("share")), validation


def build_state(options: Options, model: Classifier, trained: nn.Module) -> State:
    """Return the state of a run before its first step.

    Args:
        options: The configuration.
        model: The whole model.
        trained: The part of it whose parameters are trained.
    """
    optimizer = build_optimizer(
        options.optimizer,
        trained,
        options.weight_decay,
        options.eps,
        options.layer_decay,
        options.muon_share,
    )
    sums = torch.zeros(3, dtype=torch.float64, device=next(model.parameters()).device)
    return State(model, optimizer, moving_average(model, options.ema), sums)


def check_fits(options: Options, data: DataSet, batches: ImageBatches, model: Classifier, processes: Processes) -> None:
    """Refuse splits of the images or of a batch that are too small, and options that would have no effect."""
    images = len(batches.training)
    if not (options.final or len(batches.validation)):
        n = len(data.train)
        raise UserError(f"{n} training images are too few to split off validation images; --final uses all")
    if not images:
        raise UserError(f"--share {options.share:g} is too small: it leaves no training image")
    batch_size, parts, shares = options.batch_size, options.accumulate, processes.world_size
    if batch_size > images:
        left = f" that --share {options.share:g} leaves" if options.share < 1 else ""
        raise UserError(f"--batch-size {batch_size} is more than the {images} training images{left}")
    if batch_size < shares:
        raise UserError(f"--batch-size {batch_size} is less than the {shares} processes that share it")
    if batch_size < shares * parts:
        raise UserError(f"--batch-size {batch_size} is less than the {shares * parts} parts of --accumulate {parts}")
    normed = has_batch_norm(model)
    if batch_size < 2 * shares * parts and normed and not options.freeze:
        raise UserError(f"--batch-size {batch_size} leaves a process 1 image, and the BatchNorm of the model needs 2")
    if options.gradient_checkpointing and not model.stages:
        raise UserError(f"--gradient-checkpointing needs stages of blocks, and {options.model} has none")
    if options.sync_batchnorm and not normed:
        raise UserError(f"--sync-batchnorm needs BatchNorm, and {options.model} has none")
    if options.sync_batchnorm and processes.device.type != "cuda":
        raise UserError("--sync-batchnorm needs a GPU")
