"""Changes that people make to a model before they fuse or count it; each returns the changed model."""

import functools
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations, prune


def train_one_step(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.train()(x).square().mean().backward()
    optimizer.step()


def layers(model):
    return [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def pruned(model):
    for layer in layers(model):
        prune.l1_unstructured(layer, "weight", 0.5)
    return model


def pruned_twice(model):
    return pruned(pruned(model))


def old(apply):
    """Torch has deprecated these in favour of parametrizations, and people still have them."""

    def applied(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for layer in layers(model):
                apply(layer)
        return model

    return applied


def parametrised(model):
    for layer in layers(model):
        parametrizations.weight_norm(layer)
    return model


class Recorder:
    """Keep what a layer returns."""

    def __init__(self):
        self.outputs = []

    def keep(self, module, inputs, output):
        self.outputs.append(output)

    def keep_named(self, name, module, inputs, output):
        self.outputs.append((name, output))


def hooked(model):
    for layer in layers(model):
        recorder = Recorder()
        layer.register_forward_hook(recorder.keep)
        layer.register_forward_hook(functools.partial(recorder.keep_named, "layer"))
    return model


def in_data_parallel(model):
    return nn.DataParallel(model)


def in_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


USES = {
    "as it is": lambda model: model,
    "pruned": pruned,
    "pruned twice": pruned_twice,
    "weight norm, the old way": old(nn.utils.weight_norm),
    "spectral norm, the old way": old(nn.utils.spectral_norm),
    "parametrised": parametrised,
    "hooked": hooked,
    "DataParallel": in_data_parallel,
    "DDP": in_ddp,
    "pruned in DDP": lambda model: in_ddp(pruned(model)),
}
WRAPPED = ("DataParallel", "DDP", "pruned in DDP")
FOLDED = ("as it is", "DataParallel", "DDP")  # the others compute their weights or have hooks


class Group:
    """A process group of this process alone."""

    def __enter__(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def __exit__(self, *_):
        dist.destroy_process_group()
