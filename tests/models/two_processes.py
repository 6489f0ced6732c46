"""Train backbones for two steps in one of two processes: two_processes.py RANK RENDEZVOUS_FILE NAME..."""

import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import cifarblocks


def main() -> None:
    rank, rendezvous, *names = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{rendezvous}", rank=int(rank), world_size=2)
    for name in names:
        torch.manual_seed(int(rank))
        model = cifarblocks.create_model(name, features_only=True, out_indices=(0,))
        parallel = DistributedDataParallel(model, find_unused_parameters=False)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
        for _ in range(2):  # the second step refuses parameters that had no gradient in the first
            optimizer.zero_grad()
            sum(x.square().mean() for x in parallel(torch.randn(2, 3, 32, 32))).backward()
            optimizer.step()
        total = torch.stack([parameter.detach().double().sum() for parameter in model.parameters()]).sum()
        totals = [torch.empty_like(total) for _ in range(2)]
        distributed.all_gather(totals, total)
        assert totals[0] == totals[1], "the processes have come apart"
        print(name, flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
