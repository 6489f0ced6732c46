"""Train networks for two steps in one of two processes: two_processes.py WAY RANK RENDEZVOUS_FILE NAME..."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import cifarblocks


def backbone(name: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A backbone under DistributedDataParallel; the second step refuses parameters that had no gradient before."""
    model = cifarblocks.create_model(name, features_only=True, out_indices=(0,))
    parallel = DistributedDataParallel(model, find_unused_parameters=False)
    return model, lambda: sum(x.square().mean() for x in parallel(torch.randn(2, 3, 32, 32)))


def sharded(name: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A network that was made on the meta device, sharded block by block, and then filled in."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    model = cifarblocks.create_model(name, num_classes=10, device="meta")
    for part in (*(block for stage in model.stages for block in stage), model):
        fully_shard(part, mesh=mesh)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.initialise()
    whole = dict(cifarblocks.create_model(name, num_classes=10).named_parameters())
    for path, parameter in model.named_parameters():
        fresh = whole[path]
        own = parameter.full_tensor()
        assert own.isfinite().all(), path
        assert (own.std() - fresh.std()).abs() <= (0.05 + 5 * (2 / own.numel()) ** 0.5) * fresh.std(), path
    return model, lambda: model(torch.randn(2, 3, 32, 32)).square().mean()


def main(way: str, rank: str, rendezvous: str, *names: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{rendezvous}", rank=int(rank), world_size=2)
    for name in names:
        torch.manual_seed(int(rank) if way == "backbone" else 0)
        model, loss = {"backbone": backbone, "sharded": sharded}[way](name)
        torch.manual_seed(int(rank))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        whole = [getattr(parameter, "full_tensor", lambda p=parameter: p)() for parameter in model.parameters()]
        total = torch.stack([parameter.detach().double().sum() for parameter in whole]).sum()
        totals = [torch.empty_like(total) for _ in range(2)]
        distributed.all_gather(totals, total)
        assert totals[0] == totals[1], "the processes have come apart"
        print(name, flush=True)
    distributed.destroy_process_group()


def run(folder: Path, way: str, *names: str) -> list[tuple[int, str]]:
    """Start both processes: the exit status and the output of each."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, way, str(rank), folder / "rendezvous", *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "DTensor random operators may not have complete support")
    main(*sys.argv[1:])
