"""What happens to a run: signals, full disks, cut files, other processes; nothing is lost but the last few steps."""

import errno
import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cifarblocks.training.saving import CHECKPOINT, PREVIOUS

# All that draws random numbers is on; 5 steps an epoch.
OPTIONS = ("--model", "eca_resnet_20", "--data", "folder:shades", "--batch-size", "4", "--epochs", "2", "--clip", "1",
           "--drop-path", "0.2", "--dropout", "0.1", "--erasing", "0.5", "--mixup", "0.4", "--cutmix", "1",
           "--ema", "0.9", "--policy", "trivial", "--accumulate", "2", "--checkpoint-steps", "2",
           "--resume")  # fmt: skip
FOLDER = Path("runs/eca_resnet_20")


@pytest.fixture
def main(tmp_path, image_folder, monkeypatch):
    """Run cifarblocks train in this process, without pictures: main("--name", "a") → its exit status."""
    from cifarblocks.cli.train import main as command
    from cifarblocks.training import loop as train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "draw_curves", lambda *_: None)
    monkeypatch.setattr(train, "draw_mistakes", lambda *_: None)
    return lambda *arguments: command([*OPTIONS, *arguments])


@pytest.fixture
def after_step(monkeypatch):
    """Have something done after a step, counted over the processes' lives: after_step(3, what)."""
    from cifarblocks.training import loop as train

    original = train.between_steps

    def plan(step, what):
        taken = iter(range(1, 1000))

        def between_steps(run, stop):
            if next(taken) == step:
                what()
            original(run, stop)

        monkeypatch.setattr(train, "between_steps", between_steps)

    return plan


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and k != "waiting_share"} for line in lines]


def same(one: Path, other: Path) -> None:
    """Weights, averages, the optimiser's memory, metrics and scores are the same, to the bit."""
    for name in ("last", "best", "average"):
        ours, theirs = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    states = [torch.load(folder / CHECKPOINT, weights_only=True)["optimizer"]["state"] for folder in (one, other)]
    assert all(torch.equal(states[0][k]["momentum_buffer"], states[1][k]["momentum_buffer"]) for k in states[0])
    assert metrics(one) == metrics(other)
    scores = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for key in ("test_loss", "test_top1", "average_test_loss", "average_test_top1"):
        assert scores[0][key] == scores[1][key]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing that cifarblocks train does answers it."""


def kill():
    raise Killed


def test_killed_at_random_steps_many_times_it_is_the_run_that_nobody_touched(main, after_step):
    assert main("--name", "whole") == 0
    draw, kills = random.Random(1), 0
    while not (FOLDER / "cut" / "summary.json").exists():
        after_step(draw.randint(1, 6), kill)
        try:
            assert main("--name", "cut") == 0
        except Killed:
            kills += 1
        assert kills < 30
    assert kills > 2
    same(FOLDER / "whole", FOLDER / "cut")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_leaves_with_a_sentence(main, after_step, capsys, number):
    assert main("--name", "whole") == 0
    after_step(7, lambda: os.kill(os.getpid(), number))
    assert main("--name", "cut") == 128 + number
    name = signal.Signals(number).name
    assert capsys.readouterr().err == (
        f"cifarblocks train: error: {name} in epoch 2 after step 2; --name cut --resume goes on from there\n"
    )
    assert torch.load(FOLDER / "cut" / CHECKPOINT, weights_only=True)["step"] == 2
    assert main("--name", "cut") == 0
    assert "going on with run runs/eca_resnet_20/cut after epoch 1, step 2" in capsys.readouterr().out
    same(FOLDER / "whole", FOLDER / "cut")


def test_a_signal_while_the_last_epoch_is_scored_leaves_before_the_test(main, monkeypatch, capsys):
    from cifarblocks.training import loop as train

    assert main("--name", "whole") == 0
    measure = train.measure

    def interrupted(run, epoch):
        if epoch + 1 == run.schedule.epochs:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(run, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(train, "measure", interrupted)
        assert main("--name", "cut") == 143
    epochs = len(metrics(FOLDER / "whole"))
    assert f"SIGTERM after epoch {epochs}; --name cut --resume goes on from there" in capsys.readouterr().err
    assert not (FOLDER / "cut" / "summary.json").exists()
    assert main("--name", "cut") == 0
    same(FOLDER / "whole", FOLDER / "cut")


@pytest.mark.parametrize(("error", "calls"), [(errno.ENOSPC, 2), (errno.ENOSPC, 5), (errno.EROFS, 8), (errno.EIO, 12)])
def test_a_disk_that_fails_costs_the_work_since_the_last_checkpoint(main, monkeypatch, capsys, error, calls):
    assert main("--name", "whole") == 0
    counted, fsync = iter(range(1000)), os.fsync

    def fails(descriptor):
        if next(counted) == calls:
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("cifarblocks.training.atomic.os.fsync", fails)
        status = main("--name", "cut")
    assert status in (1, 2)  # 2 where the folder of the run could not be made
    assert f"{os.strerror(error)}" in capsys.readouterr().err
    assert not [path for path in (FOLDER / "cut").iterdir() if path.name.endswith(".tmp")]
    assert main("--name", "cut") == 0
    same(FOLDER / "whole", FOLDER / "cut")


@pytest.mark.parametrize("spoil", [lambda content: content[:5000], lambda content: b""])
def test_a_damaged_checkpoint_is_passed_over_and_half_a_line_is_repaired(main, after_step, capsys, spoil):
    assert main("--name", "whole") == 0
    after_step(9, kill)
    with pytest.raises(Killed):
        main("--name", "cut")
    path = FOLDER / "cut" / CHECKPOINT
    path.write_bytes(spoil(path.read_bytes()))
    with open(FOLDER / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "train_lo')
    after_step(1, kill)
    with pytest.raises(Killed):
        main("--name", "cut")
    assert [line["epoch"] for line in metrics(FOLDER / "cut")] == [1]
    assert (
        "is damaged (File is not a zip file) and is now checkpoint_damaged.pt; the one before"
        in capsys.readouterr().out
    )
    after_step(0, kill)
    assert main("--name", "cut") == 0
    same(FOLDER / "whole", FOLDER / "cut")


def test_a_checkpoint_of_another_model_is_refused(main, after_step, capsys):
    for name, step in (("one", 3), ("other", 3)):
        after_step(step, kill)
        with pytest.raises(Killed):
            main("--name", name, *(() if name == "one" else ("--model", "resnet_32")))
    (FOLDER / "one" / CHECKPOINT).write_bytes(Path("runs/resnet_32/other", CHECKPOINT).read_bytes())
    assert main("--name", "one") == 2
    assert "checkpoint.pt is of a run with model 'resnet_32'" in capsys.readouterr().err
    assert (FOLDER / "one" / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(main, monkeypatch, capsys):

    from cifarblocks.training.optim.schedule import Schedule

    original = Schedule.rate
    taken = iter(range(100))

    def wild(schedule, step):
        return float("inf") if next(taken) == 6 else original(schedule, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "rate", wild)
        assert main("--name", "wild") == 1
    error = capsys.readouterr().err
    assert "in epoch 2, step 2; try a smaller --lr than 0.8; what was written before is whole" in error
    assert error.count("\n") == 1
    kept = [torch.load(FOLDER / "wild" / name, weights_only=True) for name in (CHECKPOINT, PREVIOUS)]
    assert all(tensor.isfinite().all() for content in kept for tensor in content["model"].values())
    assert [(len(content["history"]), content["step"]) for content in kept] == [(1, 0), (0, 4)]


def test_other_processes_go_on_with_a_run_in_the_middle_of_an_epoch(script, tmp_path, main, after_step):
    """In float64 and without BatchNorm, two processes are one to 1e-9, wherever they begin."""
    arguments = ("--model", "mlp", "--precision", "float64", "--batch-size", "7", "--lr", "0.08")
    assert main(*arguments, "--name", "whole", "--drop-path", "0", "--dropout", "0") == 0
    after_step(2, kill)
    with pytest.raises(Killed):
        main(*arguments, "--name", "cut", "--drop-path", "0", "--dropout", "0")
    script("train", *OPTIONS, *arguments, "--name", "cut", "--drop-path", "0", "--dropout", "0", processes=2)
    folders = [tmp_path / "runs" / "mlp" / name for name in ("whole", "cut")]
    for file in ("last", "average"):
        whole, cut = (load_file(folder / f"{file}.safetensors") for folder in folders)
        for name in whole:
            assert (whole[name] - cut[name]).abs().max() <= 1e-9 * whole[name].abs().max(), name
    for ours, theirs in zip(*map(metrics, folders), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-9)
        assert ours["train_top1"] == theirs["train_top1"]
