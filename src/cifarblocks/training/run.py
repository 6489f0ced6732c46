"""What a run is made of, settled before it begins."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cifarblocks
from cifarblocks.training.checkpoints import read_checkpoint, restore
from cifarblocks.training.data.batches import (
    Augmentation,
    Batch,
    Normalisation,
    evaluation_batches,
    random_stream,
    steps_per_epoch,
    training_batches,
)
from cifarblocks.training.data.datasets import DataSet, Images, hold_out, load_data, share_of
from cifarblocks.training.data.mixing import Mixing
from cifarblocks.training.data.policies import build_policy
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.models import build_model, has_batch_norm
from cifarblocks.training.optim.groups import build_optimizer, learning_rate_at, peak_learning_rate, supports_bfloat16
from cifarblocks.training.run_folder import folder as runs
from cifarblocks.training.run_folder.report import configuration
from cifarblocks.training.state import State, moving_average

Build = Callable[[Namespace, DataSet], tuple[nn.Module, dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """All that a run is made of.

    Attributes:
        options: the whole configuration.
        processes: those that train together.
        data: the data set.
        training: the images to train on, on the device.
        validation: the images to select with, on the device; None where all are trained on.
        arguments: what the model was built with.
        record: what is written down of all this.
        folder: where it is written.
        state: what changes.
        autocast: the precision to compute in.
        normalise: what turns pixels into numbers.
    """

    options: Namespace
    processes: Processes
    data: DataSet
    training: Images
    validation: Images | None
    arguments: dict[str, Any]
    record: dict[str, Any]
    folder: Path
    state: State
    autocast: torch.autocast
    normalise: Normalisation

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return steps_per_epoch(len(self.training), self.options.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This process's share of the batches of an epoch that it has not seen."""
        options, share = self.options, (self.processes.rank, self.processes.world_size)
        mixing = Mixing(options.mixup, options.cutmix, options.mix_probability, len(self.data.classes))
        augmentation = Augmentation(
            options.mirror,
            options.shift,
            options.erasing,
            build_policy(options.policy),
            mixing if options.mixup or options.cutmix else None,
        )
        size, seed, seen = options.batch_size, options.seed, self.state.step
        return training_batches(self.training, self.normalise, augmentation, size, seed, epoch, *share, seen)

    def evaluation_batches(self, images: Images) -> Iterator[Batch]:
        """This process's share of some images, as they are."""
        return evaluation_batches(images, self.normalise, self.processes.rank, self.processes.world_size)

    def learning_rate(self, step: int) -> float:
        """At a step, counted from the first one of the run."""
        options = self.options
        return learning_rate_at(
            step,
            total_steps=options.epochs * self.steps,
            warmup_steps=round(options.warmup_epochs * self.steps),
            peak=peak_learning_rate(options.lr, options.batch_size),
            final=peak_learning_rate(options.final_lr, options.batch_size),
            schedule=options.schedule,
        )

    def resume(self) -> None:
        """Go on from the last checkpoint, where there is one, and make metrics.jsonl what it says."""
        checkpoint = self.processes.first_decides(lambda: read_checkpoint(self.folder, runs.decisive(self.record)))
        if checkpoint is None:
            return
        restore(checkpoint, self.state, self.processes)
        self.processes.first_decides(lambda: runs.write_metrics(self.folder, self.state.history))
        step = f", step {self.state.step}" if self.state.step else ""
        self.processes.print(f"going on with run {self.folder} after epoch {len(self.state.history)}{step}")

    def network(self) -> nn.Module:
        """The model as it is trained: in step with other processes, compiled."""
        network = self.processes.distributed(self.state.model)
        return torch.compile(network) if self.options.compile else network  # type: ignore[return-value]


def prepare(options: Namespace, processes: Processes, build: Build = build_model) -> Run:
    """Read the data, build the model, and open the folder of a run.

    Args:
        options: as `parse_training_arguments` gives them; what is still open in them is filled in.
        processes: those that train together.
        build: called as build(options, data) for the model with its first weights, and its arguments.

    Raises:
        UserError: if these options cannot work with these data.
    """
    device = processes.device
    data = processes.one_at_a_time(lambda: load_data(options.data, options.data_dir, options.image_size))
    resolve(options, data, device)
    training, validation = split(data.train, options)
    dtype = torch.float64 if options.precision == "float64" else torch.float32
    torch.manual_seed(options.seed)
    model, arguments = build(options, data)
    check_fits(options, len(training), len(validation or ()), model, processes)
    record = configuration(options, data, processes)
    folder = processes.first_decides(lambda: runs.open_run(options, record))

    model.set_gradient_checkpointing(options.gradient_checkpointing)  # type: ignore[operator]
    if options.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, dtype).to(memory_format=torch.channels_last)
    if options.accelerate:
        model = cifarblocks.accelerate(model)
    optimizer = build_optimizer(
        options.optimizer, model, options.weight_decay, options.eps, options.layer_decay, options.muon_share
    )
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    return Run(
        options=options,
        processes=processes,
        data=data,
        training=training.to(device),
        validation=None if validation is None else validation.to(device),
        arguments=arguments,
        record=record,
        folder=folder,
        state=State(model, optimizer, moving_average(model, options.ema), sums),
        autocast=torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"),
        normalise=Normalisation(options.mean, options.std, device, dtype),
    )


def split(images: Images, options: Namespace) -> tuple[Images, Images | None]:
    """Those to train on and, unless all are for that, those to select with."""
    training, validation = (images, None) if options.final else hold_out(images, random_stream("hold out"))
    return share_of(training, options.share, random_stream("share")), validation


def resolve(options: Namespace, data: DataSet, device: torch.device) -> None:
    """Fill in the options that depend on the data and the device."""
    if options.precision == "auto":
        options.precision = "bfloat16" if supports_bfloat16(device) else "float32"
    if options.accelerate is None:
        options.accelerate = device.type == "cpu"
    if options.mirror is None:
        options.mirror = data.mirror
    mean, std = data.mean_and_std
    options.mean, options.std = options.mean or mean, options.std or std


def check_fits(options: Namespace, images: int, held_out: int, model: nn.Module, processes: Processes) -> None:
    """Refuse splits of the images or of a batch that leave too little, and options that would do nothing."""
    if not (options.final or held_out):
        raise UserError(f"{images} training images are too few to hold a tenth out to select with; --final takes all")
    batch_size, parts, shares = options.batch_size, options.accumulate, processes.world_size
    if batch_size > images:
        raise UserError(f"--batch-size {batch_size} is more than the {images} training images")
    if batch_size < shares:
        raise UserError(f"--batch-size {batch_size} is less than the {shares} processes that share it")
    if batch_size < shares * parts:
        raise UserError(f"--batch-size {batch_size} is less than the {shares * parts} parts of --accumulate {parts}")
    normed = has_batch_norm(model)
    if batch_size < 2 * shares * parts and normed:
        raise UserError(f"--batch-size {batch_size} leaves a process 1 image, and the BatchNorm of the model needs 2")
    if options.gradient_checkpointing and not model.stages:
        raise UserError(f"--gradient-checkpointing: {options.model} has no stages of blocks to compute again")
    if options.sync_batchnorm and not normed:
        raise UserError(f"--sync-batchnorm: {options.model} has no BatchNorm")
    if options.sync_batchnorm and processes.device.type != "cuda":
        raise UserError("--sync-batchnorm: torch has it for GPUs alone, and this is a CPU")
