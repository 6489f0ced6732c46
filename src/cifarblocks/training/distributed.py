"""One process or many: the rank of this process, and the communication between all of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cifarblocks.checkpoints.files import first_line
from cifarblocks.training.device import find_device
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.output import progress

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train together; without torchrun, one.

    Attributes:
        rank: number of this process; only process 0 writes and prints.
        world_size: number of processes.
        device: device of this process: a GPU of its own if there is one, else the CPU.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    def print(self, *what: object, sep: str = " ") -> None:
        """Print and flush, only in process 0."""
        if self.first:
            print(*what, sep=sep, flush=True)

    def progress(self, items: Iterable[T], name: str, length: int, done: int = 0) -> Iterable[T]:
        """Return the items, with a progress bar in process 0 of a terminal."""
        return progress(items, name, length=length, done=done) if self.first else items

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, in each of them."""
        if self.world_size > 1:
            dist.all_reduce(numbers)
        return numbers

    def largest(self, numbers: Sequence[float]) -> list[int]:
        """Return the largest over all processes of each whole number, in each of them."""
        if self.world_size == 1:
            return [int(number) for number in numbers]
        tensor = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the numbers of all processes, (world_size, ...), in each of them."""
        if self.world_size == 1:
            return numbers.unsqueeze(0)
        rows = [torch.empty_like(numbers) for _ in range(self.world_size)]
        dist.all_gather(rows, numbers)
        return torch.stack(rows)

    def first_decides(self, decide: Callable[[], T]) -> T:
        """Return in every process what `decide` returns in process 0; an error there is raised in all."""
        outcome = _attempt(decide) if self.first else None
        if self.world_size > 1:
            box = [outcome]
            dist.broadcast_object_list(box, src=0, device=self.device)
            outcome = box[0]
        result, error = cast("tuple[T, Exception | None]", outcome)
        if error is not None:
            raise error
        return result

    def one_at_a_time(self, read: Callable[[], T]) -> T:
        """Call `read` in each process, first in one process of each machine; the others find its files.

        An error in one process is raised in all.
        """
        late = from_launcher("LOCAL_RANK", 0) > 0
        result: T | None = None
        for late_ones in (False, True) if self.world_size > 1 else (False,):
            error = None
            if late == late_ones:
                result, error = _attempt(read)
            errors: list[Exception | None] = [error]
            if self.world_size > 1:
                errors = [None] * self.world_size
                dist.all_gather_object(errors, error)
            for raised in errors:
                if raised is not None:
                    raise raised
        return cast("T", result)

    def distributed(self, model: torch.nn.Module) -> torch.nn.Module:
        """Wrap a model so that its gradients are averaged over all processes; do nothing in a single process."""
        if self.world_size == 1:
            return model
        network = DistributedDataParallel(model)
        if self.device.type == "cpu":
            network.register_comm_hook(self.world_size, average_in_order)
        return network

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give every process the buffers of process 0, so that the evaluated model is the saved one."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


ALONE = Processes(0, 1, torch.device("cpu"))  # a process without torchrun


def average_in_order(
    world_size: int,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Average the gradients of a bucket, added in the order of the processes.

    An all_reduce adds in an order that depends on the place of a gradient in its bucket. DistributedDataParallel
    rearranges the buckets after its first step. So with three or more processes a resumed run would differ in the last
    bit from an uninterrupted one.
    """
    rows = [torch.empty_like(bucket.buffer()) for _ in range(world_size)]
    gathered = dist.all_gather(rows, bucket.buffer(), async_op=True).get_future()
    return gathered.then(lambda _: torch.stack(rows).sum(0).div_(world_size))


def _attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except (UserError, RunError, OSError) as error:
        return None, error


def from_launcher(name: str, alone: int) -> int:
    """Return a number that torchrun sets in the environment; `alone` in a process without torchrun.

    Raises:
        UserError: If it is no number.
    """
    text = os.environ.get(name, str(alone))
    if not text.isdecimal():
        raise UserError(f"environment variable {name} must be a number, as torchrun sets it, got {text!r}")
    return int(text)


@contextmanager
def joined_processes(kind: str | None = None) -> Iterator[Processes]:
    """Join the processes that torchrun has started, by NCCL or gloo, and leave the group at the end.

    Args:
        kind: "cpu" or "cuda". Default: "cuda" if there is a GPU.

    Raises:
        UserError: If there is no such device, or the processes cannot connect.
        RunError: If the connection to another process is lost inside the block.
    """
    rank, world_size = from_launcher("RANK", 0), from_launcher("WORLD_SIZE", 1)
    device = find_device(kind)
    if device.type == "cuda":
        local_rank, gpus = from_launcher("LOCAL_RANK", 0), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"--nproc_per_node must be at most the {gpus} GPUs of a machine, got at least {local_rank + 1}"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Processes(0, 1, device)
        return
    # long, because the others wait while one process decodes or downloads
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    except ValueError as error:
        raise UserError(f"WORLD_SIZE is {world_size}, but the processes cannot connect: {first_line(error)}") from error
    try:
        yield Processes(rank, world_size, device)
    except RuntimeError as error:
        if "gloo" not in str(error):  # its errors have no type of their own; NCCL ends the process itself
            raise
        raise RunError(
            "another process has ended or hangs; with --name and --resume the run continues from its last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()
