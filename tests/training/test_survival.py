"""Signals, full disks, cut files and other processes cost a run the last few steps at most."""

import contextlib
import errno
import itertools
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from commands import EVERYTHING_RANDOM, after_steps, status_of, write_shades
from run_folders import assert_same_run, metrics, untimed, weights
from torch.nn.modules.module import register_module_forward_pre_hook

from cifarblocks.cli.train import main as train
from cifarblocks.training.run_folder.checkpoints import CHECKPOINT, PREVIOUS

FOLDER = Path("runs/eca_resnet_20")
CUT = FOLDER / "cut"


@pytest.fixture
def main(command, image_folder):
    """Run cifarblocks train in this process: main("--name", "a") → what it printed."""
    return lambda *arguments, **status: command("train", *EVERYTHING_RANDOM, *arguments, **status)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody touched."""
    folder = tmp_path_factory.mktemp("whole")
    write_shades(folder / "shades")
    with contextlib.chdir(folder):
        assert status_of(train, [*EVERYTHING_RANDOM, "--name", "whole"]) == 0
    return folder / FOLDER / "whole"


@pytest.fixture
def after_step():
    """Have something done after a step, counted over the processes' lives: after_step(3, what)."""
    with contextlib.ExitStack() as stack:

        def plan(step, what):
            stack.close()
            taken = itertools.count(1)
            stack.enter_context(after_steps(lambda _: what() if next(taken) == step else None))

        yield plan


class Killed(BaseException):
    """Stands in for SIGKILL: nothing that cifarblocks train does answers it."""


def kill():
    raise Killed


def test_killed_at_random_steps_many_times_it_is_the_run_that_nobody_touched(main, whole, after_step):
    draw, kills = random.Random(1), 0
    while not (CUT / "summary.json").exists():
        after_step(draw.randint(1, 6), kill)
        try:
            main("--name", "cut")
        except Killed:
            kills += 1
        assert kills < 30
    assert kills > 2
    assert_same_run(whole, CUT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(main, whole, after_step, refused, number):
    after_step(7, lambda: os.kill(os.getpid(), number))
    arguments = [*EVERYTHING_RANDOM, "--name", "cut"]
    where = (signal.Signals(number).name, "epoch 2", "step 2", "--name cut --resume")
    refused(train, arguments, *where, status=128 + number)
    assert torch.load(CUT / CHECKPOINT, weights_only=True)["step"] == 2
    assert "after epoch 1, step 2" in main("--name", "cut", "--no-test").stdout
    assert_same_run(whole, CUT)


def test_a_signal_while_the_last_epoch_is_scored_leaves_before_the_test(main, whole, after_step, refused):
    def while_scoring(module, _):
        if not module.training:
            hook.remove()
            os.kill(os.getpid(), signal.SIGTERM)

    def begin():
        nonlocal hook
        hook = register_module_forward_pre_hook(while_scoring)

    hook = None
    after_step(10, begin)
    refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], "SIGTERM", "epoch 2", "--name cut --resume", status=143)
    assert not (CUT / "summary.json").exists()
    main("--name", "cut")
    assert_same_run(whole, CUT)


# A call that fails is of the configuration, a checkpoint in an epoch, the weights, or the metrics.
@pytest.mark.parametrize(
    ("error", "calls", "status"),
    [
        (errno.ENOSPC, 4, 1),
        (errno.EIO, 14, 1),
        pytest.param(errno.ENOSPC, 2, 2, marks=pytest.mark.slow),
        pytest.param(errno.EROFS, 8, 1, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_costs_the_work_since_the_last_checkpoint(
    main, whole, monkeypatch, refused, error, calls, status
):
    counted, fsync = iter(range(1000)), os.fsync

    def fails(descriptor):
        if next(counted) == calls:
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], os.strerror(error), status=status)
    assert not [path for path in CUT.iterdir() if path.name.endswith(".tmp")]
    main("--name", "cut", "--no-test")
    assert_same_run(whole, CUT)


def test_a_damaged_checkpoint_is_passed_over_and_half_a_line_is_repaired(main, whole, after_step):
    after_step(9, kill)
    with pytest.raises(Killed):
        main("--name", "cut")
    path = CUT / CHECKPOINT
    path.write_bytes(path.read_bytes()[:5000])
    with open(CUT / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "train_lo')
    after_step(1, kill)
    with pytest.raises(Killed):
        main("--name", "cut")
    assert [line["epoch"] for line in metrics(CUT)] == [1]
    assert (CUT / "checkpoint_damaged.pt").exists()
    after_step(0, kill)
    main("--name", "cut", "--no-test")
    assert_same_run(whole, CUT)


def test_cut_at_both_ends_of_an_epoch_it_is_the_run_that_nobody_touched(main, whole, after_step, refused):
    after_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # the last step, and the epoch is not scored yet
    refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], "epoch 1", "step 5", "--name cut --resume", status=143)
    after_step(1, kill)  # the first step of the next epoch
    with pytest.raises(Killed):
        main("--name", "cut")
    assert torch.load(CUT / CHECKPOINT, weights_only=True)["step"] == 0
    after_step(0, kill)
    assert "after epoch 1\n" in main("--name", "cut", "--no-test").stdout
    assert_same_run(whole, CUT)


def test_a_file_that_cannot_be_deleted_and_a_damaged_configuration_are_told_and_the_run_goes_on(
    main, whole, monkeypatch, after_step, refused
):
    after_step(7, kill)
    with pytest.raises(Killed):
        main("--name", "cut")
    after_step(0, kill)
    left, path = CUT / ".checkpoint.pt.0123456789abcdef.tmp", CUT / "configuration.json"
    left.touch()

    def fails(path, **_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], left, os.strerror(errno.EACCES))
    begun = path.read_text()
    for damage in ("[" * 100_000, '{"options": 1}'):
        path.write_text(damage)
        refused(train, [*EVERYTHING_RANDOM, "--name", "cut", "--lr", "0.3"], CUT / CHECKPOINT, "lr", 0.8, 0.3)
        assert path.read_text() == damage
    assert str(path) in main("--name", "cut", "--no-test").stdout  # written anew, for the checkpoint says the same
    assert path.read_text().partition('"command"')[0] == begun.partition('"command"')[0]
    assert not left.exists()
    assert_same_run(whole, CUT)


def test_a_damaged_configuration_without_a_checkpoint_is_named(main, refused):
    CUT.mkdir(parents=True)
    (CUT / "configuration.json").write_text("{")
    refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], "--resume", CUT / "configuration.json", "remove")


def test_a_checkpoint_of_another_model_is_refused(main, after_step, refused):
    for name, model in (("one", "eca_resnet_20"), ("other", "resnet_20")):
        after_step(3, kill)
        with pytest.raises(Killed):
            main("--name", name, "--model", model)
    (FOLDER / "one" / CHECKPOINT).write_bytes(Path("runs/resnet_20/other", CHECKPOINT).read_bytes())
    refused(train, [*EVERYTHING_RANDOM, "--name", "one"], FOLDER / "one" / CHECKPOINT, "model", "resnet_20")
    assert (FOLDER / "one" / CHECKPOINT).exists()


def test_a_weight_that_is_not_finite_keeps_the_last_checkpoint(main, refused):
    taken = itertools.count(1)

    def spoil(optimizer):
        if next(taken) == 6:
            optimizer.param_groups[0]["params"][0].data.fill_(float("inf"))

    with after_steps(spoil):
        refused(train, [*EVERYTHING_RANDOM, "--name", "cut"], "epoch 2", "step 2", "--lr", 0.8, status=1)
    kept = [torch.load(CUT / name, weights_only=True) for name in (CHECKPOINT, PREVIOUS)]
    assert all(tensor.isfinite().all() for content in kept for tensor in content["model"].values())
    assert [(len(content["history"]), content["step"]) for content in kept] == [(1, 0), (0, 4)]


def test_other_processes_go_on_with_a_run_in_the_middle_of_an_epoch(main, together, after_step):
    """In float64 and without BatchNorm, two processes are one to 1e-9, wherever they begin."""
    arguments = ("--model", "mlp", "--precision", "float64", "--batch-size", "7", "--lr", "0.08", "--drop-path", "0",
                 "--dropout", "0", "--no-test")  # fmt: skip
    main(*arguments, "--name", "whole")
    after_step(2, kill)
    with pytest.raises(Killed):
        main(*arguments, "--name", "cut")
    together("train", *EVERYTHING_RANDOM, *arguments, "--name", "cut")
    folders = [Path("runs/mlp") / name for name in ("whole", "cut")]
    for file in ("last", "average"):
        one, other = (weights(folder)[file] for folder in folders)
        for name in one:
            assert (one[name] - other[name]).abs().max() <= 1e-9 * one[name].abs().max(), name
    for ours, theirs in zip(*map(untimed, folders), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-9)
        assert ours["train_top1"] == theirs["train_top1"]
