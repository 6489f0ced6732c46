"""The state of training: everything that changes, which is the content of a checkpoint."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifarblocks.checkpoints.resizing import some, unusable
from cifarblocks.models.classifier import Classifier
from cifarblocks.training.data.batches import Batch
from cifarblocks.training.distributed import Processes
from cifarblocks.training.errors import RunError
from cifarblocks.training.optim.groups import memory_names


@dataclass
class State:
    """A model in training.

    Attributes:
        model: the model itself, not a wrapper of it.
        optimizer: the optimizer, with its momenta.
        average: the moving average of the model's weights and buffers; None without --ema.
        history: a line of metrics.jsonl for each finished epoch.
        step: number of steps taken in this epoch.
        sums: loss, top-1 and number of images, summed over this process's images of this epoch.
        seconds: seconds of this epoch before `resumed`.
        waited: seconds of this epoch spent waiting for data.
    """

    model: Classifier
    optimizer: Optimizer
    average: AveragedModel | None
    sums: Tensor
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    resumed: float = field(default_factory=time.perf_counter)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and add up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def count(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add the loss of a batch and its correct predictions; the class of a mixed image is the one of most weight."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        hits = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach(), hits, torch.full_like(hits, len(labels))])

    def elapsed(self) -> float:
        """Return the seconds of this epoch, those before an interruption included."""
        return self.seconds + time.perf_counter() - self.resumed

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Add the line of an epoch and begin the next one."""
        self.history.append(line)
        self.step, self.seconds, self.waited, self.resumed = 0, 0.0, 0.0, time.perf_counter()
        self.sums.zero_()

    def check_finite(self, loss: float, learning_rate: float) -> None:
        """Refuse to continue, or to save, with numbers that are not finite.

        Raises:
            RunError: if the loss, or a weight, is not finite.
        """
        weights = all(torch.isfinite(tensor).all() for tensor in self.model.state_dict().values())
        if math.isfinite(loss) and weights:
            return
        what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise RunError(
            f"{what} in epoch {len(self.history) + 1}, step {self.step}; try a smaller --lr than {learning_rate:g}; "
            "files written before are complete"
        )

    def state_dict(self, processes: Processes) -> dict[str, Any]:
        """Return the content of a checkpoint, for `torch.save`; every process must call it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.state_dict(),
            "history": self.history,
            "step": self.step,
            "sums": processes.gather(self.sums).cpu(),
            "seconds": self.elapsed(),
            "waited": self.waited,
        }

    def load_state_dict(self, content: dict[str, Any], processes: Processes) -> None:
        """Restore everything that `state_dict` returned, also with another number of processes.

        Raises:
            ValueError: If the weights, the optimizer's state or the sums are of another run.
        """
        check_alike("the model", content["model"], self.model.state_dict())
        self.model.load_state_dict(content["model"])
        self._load_optimizer(content["optimizer"], begun=bool(content["history"] or content["step"]))
        if self.average is not None:
            check_alike("the average", content["average"], self.average.state_dict())
            self.average.load_state_dict(content["average"])
        self.history, self.step = content["history"], content["step"]
        self.seconds, self.waited, self.resumed = content["seconds"], content["waited"], time.perf_counter()
        sums = content["sums"]
        if sums.ndim != 2 or sums.shape[1:] != self.sums.shape:
            raise ValueError(f"sums are of shape {tuple(sums.shape)}")
        if unusable(sums, self.sums) or (sums < 0).any():
            raise ValueError(f"sums must be finite and at least 0, got {sums.tolist()}")
        if len(sums) != processes.world_size:  # the first process counts the images that the others have seen
            sums = torch.zeros(processes.world_size, 3, dtype=sums.dtype).index_put((torch.tensor(0),), sums.sum(0))
        self.sums.copy_(sums[processes.rank])

    def _load_optimizer(self, content: dict[str, Any], *, begun: bool) -> None:
        """Load the optimizer's momenta of each parameter and its last rates; its settings come from the options.

        A run that was stopped after the last step of an epoch takes no step before it is saved again.
        """
        groups = self.optimizer.state_dict()["param_groups"]
        if [group["params"] for group in content["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("the optimizer has other groups of parameters")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if content["state"].keys() != (set(range(len(parameters))) if begun else set()):
            remembered = f"{len(content['state'])} of {len(parameters)} parameters"
            raise ValueError(f"the optimizer remembers {remembered} after {'some steps' if begun else 'no step'}")
        names = [memory_names(self.optimizer, group) for group in self.optimizer.param_groups for _ in group["params"]]
        for number, memory in content["state"].items():
            own = {name: torch.zeros(()) if name == "step" else parameters[number] for name in names[number]}
            check_alike(f"the optimizer's memory of parameter {number}", memory, own)
        for group, saved in zip(groups, content["param_groups"], strict=True):
            if not (isinstance(saved["lr"], float) and math.isfinite(saved["lr"])):
                raise ValueError(f"the optimizer's rate is {shortened(saved['lr'])}")
            group["lr"] = saved["lr"]
        self.optimizer.load_state_dict({"state": content["state"], "param_groups": groups})


def check_alike(subject: str, tensors: Any, own: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes differ from those that they replace, or whose numbers are not finite.

    Raises:
        ValueError: If there is one; the message names the first.

    >>> check_alike("it", {"a": torch.ones(2)}, {"a": torch.zeros(3)})
    Traceback (most recent call last):
    ValueError: it has a of shape (2,), expected (3,)
    """
    if not isinstance(tensors, Mapping) or tensors.keys() != own.keys():
        raise ValueError(f"{subject} must have {some(list(own))}, got {shortened(tensors)}")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{subject} has {name} {shortened(value)}, expected a tensor")
        if value.shape != own[name].shape:
            raise ValueError(f"{subject} has {name} of shape {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        if problem := unusable(value, own[name]):
            raise ValueError(f"{subject} has {name} {problem}")


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return the exponential moving average of weights and buffers; None for a decay of 0."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
