"""A run that goes on: its state comes back as it was, and what no run can have saved is refused."""

import math
from functools import partial

import torch
from refusals import refuses
from run_folders import assert_same
from torch import nn

from cifarblocks.training.distributed import ALONE, Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from cifarblocks.training.saving import resume
from cifarblocks.training.state import State, moving_average


def a_state(width=3):
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    return State(model, torch.optim.AdamW(model.parameters()), moving_average(model, 0.9), torch.zeros(3).double())


def a_trained_state():
    state = a_state()
    for _ in range(3):
        state.model(torch.randn(8, 2)).square().sum().backward()
        state.optimizer.step()
        state.average.update_parameters(state.model)
    state.step, state.history, state.waited = 3, [{"epoch": 1}], 0.5
    state.sums += torch.tensor([1.5, 2, 3])
    return state


def test_a_state_comes_back_as_it_was(tmp_path):
    state, other = a_trained_state(), a_state()
    write_checkpoint(tmp_path, state.state_dict(ALONE))
    other.load_state_dict(read_checkpoint(tmp_path, {}), ALONE)
    ours, theirs = state.state_dict(ALONE), other.state_dict(ALONE)
    for part in ("model", "average", "optimizer", "sums"):
        assert_same(ours[part], theirs[part])
    assert (other.step, other.history, other.waited) == (3, [{"epoch": 1}], 0.5)


def test_other_processes_count_what_was_seen_once():
    content = {**a_state().state_dict(ALONE), "sums": torch.tensor([[1.0, 2, 3], [10, 20, 30]]).double()}
    sums = []
    for rank in range(3):
        state = a_state()
        state.load_state_dict(content, Processes(rank, 3, torch.device("cpu")))
        sums.append(state.sums)
    assert torch.stack(sums).tolist() == [[11, 22, 33], [0, 0, 0], [0, 0, 0]]
    state = a_state()
    state.load_state_dict(content, Processes(1, 2, torch.device("cpu")))
    assert state.sums.tolist() == [10, 20, 30]


def test_how_the_optimizer_learns_is_what_the_options_say():
    content, other = a_trained_state().state_dict(ALONE), a_state()
    content["optimizer"]["param_groups"][0]["weight_decay"] = math.nan
    other.load_state_dict(content, ALONE)
    assert other.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_the_last_rate_comes_back_for_a_run_that_is_saved_before_its_next_step():
    content, other = a_trained_state().state_dict(ALONE), a_state()
    content["optimizer"]["param_groups"][0]["lr"] = 0.125
    other.load_state_dict(content, ALONE)
    assert other.state_dict(ALONE)["optimizer"]["param_groups"][0]["lr"] == 0.125
    for rate in (math.nan, "fast"):
        content["optimizer"]["param_groups"][0]["lr"] = rate
        with refuses(ValueError, "rate"):
            a_state().load_state_dict(content, ALONE)


def longer(history):
    return [{**history[0], "epoch": number} for number in range(1, 4)]


def with_memory(memory, optimizer):
    """Change what the optimizer remembers of its first parameter; None takes it away."""
    others = {number: value for number, value in optimizer["state"].items() if number}
    return {**optimizer, "state": others if memory is None else {0: memory, **others}}


# What is changed in a checkpoint of the second epoch's first step, of two epochs of two, and what is named.
CHANGES = [
    ({"step": -1}, ["step", -1]),
    ({"step": 3}, ["step", 3]),
    ({"step": True}, ["step", True]),
    ({"step": "1"}, ["step", "'1'"]),
    ({"history": lambda history: longer(history)[:2]}, ["step", 1, "epoch", 2]),
    ({"history": longer, "step": 0}, ["epoch", 3]),
    ({"history": lambda history: history[0]}, ["history"]),
    ({"history": lambda history: [history]}, ["table"]),
    ({"history": lambda history: [{**history[0], "epoch": 2}]}, ["epoch", 1, 2]),
    ({"history": lambda history: [{**history[0], "train_loss": "low"}]}, ["train_loss", "low"]),
    ({"history": lambda history: [{"epoch": 1}]}, ["train_loss"]),
    ({"history": lambda history: [{**history[0], "train_loss": math.nan}]}, ["train_loss", "nan"]),
    ({"history": lambda history: [*longer(history)[:1], {**history[0], "epoch": 2, "validation_top1": 1.0}], "step": 0},
     ["validation_top1", "epoch", 2]),
    ({"optimizer": lambda optimizer: {**optimizer, "state": {}}}, ["optimizer"]),
    *[({"optimizer": partial(with_memory, memory)}, named) for memory, named in [
        (None, ["optimizer", 5, 6]),
        ({}, ["parameter", 0, "momentum_buffer"]),
        ({"moment_buffer": torch.zeros(512, 144)}, ["parameter", 0, "momentum_buffer"]),
        ({"momentum_buffer": "fast"}, ["parameter", 0, "momentum_buffer", "'fast'"]),
        ({"momentum_buffer": torch.tensor(0.5)}, ["parameter", 0, "momentum_buffer", ()]),
        ({"momentum_buffer": torch.zeros(512, 144).int()}, ["parameter", 0, "momentum_buffer", torch.int32]),
    ]],
    ({"optimizer": lambda optimizer: {**optimizer, "param_groups": []}}, ["optimizer"]),
    ({"optimizer": partial(with_memory, {"momentum_buffer": torch.zeros(2, 5)})}, ["momentum_buffer", (2, 5)]),
    ({"optimizer": lambda optimizer: {**optimizer, "state": {99: {"momentum_buffer": torch.zeros(2, 5)}}}}, []),
    ({"sums": lambda sums: sums[:, :2]}, ["sums", (1, 2)]),
    ({"seconds": math.nan}, ["seconds", "nan"]),
    ({"sums": lambda sums: -1 - sums}, ["sums", -1.0]),
    ({"sums": lambda sums: sums / 0}, ["sums", "nan"]),
    ({"sums": lambda sums: sums + 1j}, ["sums"]),
    ({"waited": None}, ["waited", None]),
    ({"waited": -1.0}, ["waited", -1.0]),
    ({"seconds": math.inf}, ["seconds", "inf"]),
    ({"model": lambda model: {**model, "more": torch.zeros(1)}}, []),
    *[({"model": lambda model, dtype=dtype: {**model, "stem.2.weight": model["stem.2.weight"].to(dtype)}},
       ["stem.2.weight", dtype]) for dtype in (torch.int32, torch.complex64)],
    ({"model": lambda model: {**model, "stem.2.weight": model["stem.2.weight"] / 0}}, ["stem.2.weight"]),
    ({"model": lambda model: {**model, "stem.2.weight": None}}, ["stem.2.weight", None]),
    ({"average": lambda average: {}}, ["average"]),
    ({"average": None}, ["average"]),
]  # fmt: skip


def test_what_no_run_can_have_saved_is_refused_and_nothing_goes_on(prepared):
    run = prepared("--epochs", 2, "--name", "a", "--resume", "--ema", 0.5, "--model", "mlp")
    state = run.state
    assert run.batches.steps == 2
    images, targets = next(iter(run.batches.of_epoch(0, 0)))
    nn.functional.cross_entropy(state.model(images), targets).backward()
    state.optimizer.step()
    line = dict.fromkeys(("train_loss", "train_top1", "images_per_second", "seconds"), 1.0)
    state.history, state.step = [{"epoch": 1, **line, "validation_loss": None, "validation_top1": None}], 1
    content = state.state_dict(ALONE)
    for change, named in CHANGES:
        changed = {key: value(content[key]) if callable(value) else value for key, value in change.items()}
        write_checkpoint(run.folder, {**content, **changed})
        with refuses(UserError, "--resume", run.folder / CHECKPOINT, *named):
            resume(run)
    for name in content:
        write_checkpoint(run.folder, {key: value for key, value in content.items() if key != name})
        with refuses(UserError, "--resume", run.folder / CHECKPOINT, f"lacks '{name}'"):
            resume(run)
    write_checkpoint(run.folder, content)
    resume(run)
    assert (run.state.step, len(run.state.history)) == (1, 1)
