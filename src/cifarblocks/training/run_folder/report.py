"""Records of a run, which trace each number to the run that made it."""

import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

from torch import nn

import cifarblocks
from cifarblocks.training.data.datasets import DataSet, count_held_out
from cifarblocks.training.distributed import Processes
from cifarblocks.training.evaluation import Scores
from cifarblocks.training.hardware import machine, versions
from cifarblocks.training.options.declared import Options
from cifarblocks.training.output import one_line
from cifarblocks.training.run_folder.sharing import shareable, without_folders


def configuration(options: dict[str, Any], data: DataSet, processes: Processes) -> dict[str, Any]:
    """Return the configuration of a run: its decisive options, data, versions, machine and command.

    It names no folder, user or host, because it is shared with the results.
    """
    return {
        "options": shareable(options),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "classes": data.classes},
        "world_size": processes.world_size,
        "versions": versions(),
        "machine": machine(processes.device),
        "command": command_typed(),
    }


def command_typed() -> str:
    """Return the command line: `cifarblocks ...`, or a script by its path from the working folder."""
    arguments = map(without_folders, sys.argv[1:])
    if Path(sys.argv[0]).name in ("cifarblocks", "__main__.py"):
        return shlex.join(["cifarblocks", *arguments])
    if not Path(sys.argv[0]).is_file():  # in a prompt or with -c
        return shlex.join(["python", *arguments])
    script = Path(os.path.relpath(sys.argv[0]))
    return shlex.join(["python", script.name if ".." in script.parts else str(script), *arguments])


def summary(
    configuration: dict[str, Any],
    model: nn.Module,
    training_images: int,
    history: list[dict[str, Any]],
    test: Scores,
    average_test: Scores | None = None,
) -> dict[str, Any]:
    """Return the result of a run, and its configuration."""
    options = configuration["options"]
    validated = [line["validation_top1"] for line in history if line["validation_top1"] is not None]
    average = {} if average_test is None else {f"average_test_{k}": v for k, v in average_test._asdict().items()}
    return {
        "model": options["model"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": cifarblocks.count_macs(model),
        "data": configuration["data"]["name"],
        "epochs": len(history),
        "test_top1": round(test.top1, 4),
        "test_top5": None if test.top5 is None else round(test.top5, 4),
        "test_loss": test.loss,
        "test_images": test.images,
        "training_images": training_images,
        **average,
        "validation_top1": validated[-1] if validated else None,
        "best_validation_top1": max(validated, default=None),
        "steps": len(history) * (training_images // options["batch_size"]),
        "seconds": round(sum(line["seconds"] for line in history), 1),
        "seed": options["seed"],
        "world_size": configuration["world_size"],
        "versions": configuration["versions"],
        "configuration": configuration,
    }


def describe_run(options: Options, data: DataSet, model: nn.Module, training_images: int, processes: Processes) -> str:
    """Return a description of the run before it begins, human-readable."""
    validation_images = 0 if options.final else count_held_out(len(data.train))
    recipe = {name: value for name, value in options.recorded("recipe").items() if value is not None}
    teacher = f"\nteacher {one_line(options.teacher_name)} ({options.teacher_weights})" if options.teacher else ""
    values = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in recipe.items())
    return (
        f"{textwrap.fill(f'recipe {options.recipe}: {values}', 120, subsequent_indent='  ', break_on_hyphens=False)}\n"
        f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{cifarblocks.count_macs(model):,} multiply-adds\n"
        f"{data.name}: {training_images:,} training, {validation_images:,} validation and "
        f"{len(data.test):,} test images{'; 1 class, so every prediction is right' if len(data.classes) == 1 else ''}\n"
        f"{processes.world_size} x {processes.device.type} in {options.precision}, "
        f"{'accelerated' if options.accelerate else 'plain torch'} layers, batches of {options.batch_size}, "
        f"learning rate {options.lr * options.batch_size / 256:g} ({options.lr:g} per 256 images){teacher}"
    )


def describe_epoch(line: dict[str, Any], epochs: int) -> str:
    """Return a line of metrics.jsonl, human-readable."""
    validation = ""
    if line["validation_loss"] is not None:
        validation = f"  validation loss {line['validation_loss']:.3f} top-1 {line['validation_top1']:.2f} %"
    if line.get("average_validation_top1") is not None:
        validation += f" (average {line['average_validation_top1']:.2f} %)"
    return (
        f"epoch {line['epoch']:{len(str(epochs))}}/{epochs}  train loss {line['train_loss']:.3f} "
        f"top-1 {line['train_top1']:.2f} %{validation}  lr {line['learning_rate']:.3g}  "
        f"{line['images_per_second']:,.0f} images/s, {100 * line['waiting_share']:.0f} % waiting for data"
    )
