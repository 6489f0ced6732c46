"""Test a step: in parts, averaged, with less memory, at layers' own rates; the results against closed forms."""

import math
import sys
import time

import pytest
import torch
from commands import after_steps
from refusals import refuses
from safetensors.torch import load_file
from torch import nn

import cifarblocks
from cifarblocks.training import loop
from cifarblocks.training.data.batches import Augmentation
from cifarblocks.training.distributed import ALONE
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.evaluation import Scores
from cifarblocks.training.loop import fit
from cifarblocks.training.optim.groups import block_depths, build_optimizer, parameter_groups
from cifarblocks.training.run_folder.scalars import ScalarLog
from cifarblocks.training.state import State, moving_average


def weights(run):
    return run.state.model.state_dict()


def furthest(one, other):
    """The largest difference, in units of each tensor's largest value."""
    return max(float((one[k] - other[k]).abs().max() / one[k].abs().max().clamp(min=1e-30)) for k in one)


@pytest.mark.parametrize("parts", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_in_parts_is_the_batch(fitted, parts):
    """In float64, on a network without BatchNorm, also where the parts are not equal."""
    arguments = ("--model", "mlp", "--lr", 0.1, "--clip", 1)
    whole = fitted(*arguments, "--name", "whole")
    divided = fitted(*arguments, "--accumulate", parts, "--name", "parts")
    assert furthest(weights(whole), weights(divided)) < 1e-12
    assert whole.state.history[0]["train_loss"] == pytest.approx(divided.state.history[0]["train_loss"], rel=1e-12)


def test_gradient_checkpointing_changes_nothing_but_what_is_kept(fitted):
    arguments = ("--drop-path", 0.3, "--dropout", 0.2)
    plain = fitted(*arguments, "--name", "plain")
    checkpointed = fitted(*arguments, "--gradient-checkpointing", "--name", "checkpointed")
    assert checkpointed.state.model.gradient_checkpointing
    assert not plain.state.model.gradient_checkpointing
    assert furthest(weights(plain), weights(checkpointed)) < 1e-12


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_model(fitted):
    plain = fitted("--model", "mlp", "--name", "plain")
    compiled = fitted("--model", "mlp", "--compile", "--name", "compiled")
    assert furthest(weights(plain), weights(compiled)) < 1e-9
    assert weights(plain).keys() == weights(compiled).keys()


def test_dropout_draws_other_numbers_in_every_step_of_every_epoch(prepared):
    run, seeds = prepared("--epochs", 2), []
    with after_steps(lambda _: seeds.append(torch.initial_seed())):
        for _ in fit(run):
            pass
    assert len(seeds) == len(set(seeds)) == 2 * run.batches.steps


def test_the_average_is_the_sum_of_decayed_weights_buffers_too(prepared):
    run, seen = prepared("--epochs", 3, "--ema", 0.7, "--name", "a"), []
    with after_steps(lambda _: seen.append({name: tensor.clone() for name, tensor in weights(run).items()})):
        for _ in fit(run):
            pass
    assert len(seen) == 6
    # a_n = d a_(n-1) + (1 - d) w_n from a_1 = w_1: so w_1 has d^(n-1), and w_i (1 - d) d^(n-i).
    shares = [0.7**5] + [0.3 * 0.7 ** (5 - i) for i in range(1, 6)]
    assert sum(shares) == pytest.approx(1)
    written = load_file(run.folder / "average.safetensors")
    for name, tensor in run.state.average.module.state_dict().items():
        assert torch.equal(written[name], tensor)
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(s * w[name] for s, w in zip(shares, seen, strict=True)))
    line = run.state.history[-1]
    assert {"average_validation_loss", "average_validation_top1", "average_validation_top5"} < line.keys()
    assert line["average_validation_loss"] != line["validation_loss"]


def test_blocks_learn_at_their_share_of_the_rate_of_the_block_after_them():
    model = cifarblocks.create_model("resnet_20")
    optimizer = build_optimizer("sgd", model, 0.1, layer_decay=0.5)
    rates = {id(p): 0.8 * group["scale"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(found) == len(rates)
    # The stem, 9 blocks, the head: halved ten times from the head to the stem.
    assert found["head.classifier.weight"] == found["head.classifier.bias"] == 0.8
    for name, rate in found.items():
        if name.startswith("stages."):
            stage, block = map(int, name.split(".")[1:3])
            assert rate == pytest.approx(0.8 * 0.5 ** (9 - (3 * stage + block))), name
        elif name.startswith("stem"):
            assert rate == pytest.approx(0.8 * 0.5**10), name


@pytest.mark.parametrize("name", ["vit_tiny_cifar", "convnext_atto_cifar", "coatnet_nano_cifar", "mlp", "patch_lstm"])
def test_depths_grow_from_the_first_parameter_to_the_head(name):
    with torch.device("meta"):
        model = cifarblocks.create_model(name)
    depths = block_depths(model)
    assert min(depths.values()) == 0 or not list(model.stem.parameters())
    assert depths["head.classifier.weight"] == max(depths.values())
    blocks = sum(any(True for _ in block.parameters()) for stage in model.stages for block in stage.children())
    assert max(depths.values()) == blocks + 1
    groups = parameter_groups(model, 0.05, 0.9)
    assert sum(len(group["params"]) for group in groups) == len(depths)


def test_numbers_that_are_not_finite_are_refused():
    model = nn.Linear(2, 2)
    state = State(model, torch.optim.SGD(model.parameters()), None, torch.zeros(3).double(), step=4)
    state.check_finite(1.0, 0.1)
    with refuses(RunError, "inf", "epoch 1", "step 4", "--lr", 0.1):
        state.check_finite(math.inf, 0.1)
    model.weight.data[0, 0] = math.nan
    with refuses(RunError, "weight", "epoch 1", "step 4"):
        state.check_finite(1.0, 0.1)


def test_statistics_that_are_not_finite_are_refused_as_weights_are():
    model = nn.BatchNorm1d(2)
    state = State(model, torch.optim.SGD(model.parameters()), None, torch.zeros(3).double())
    model.running_var[0] = math.inf
    with refuses(RunError, "weight"):
        state.check_finite(1.0, 0.1)


def test_a_loss_on_other_images_that_is_not_finite_ends_the_run(fitted, monkeypatch):
    """The weights may be finite, and training images of another scale."""
    monkeypatch.setattr(loop, "evaluate", lambda *_: Scores(math.nan, 50.0, None, 2))
    with refuses(RunError, "nan", "--lr", 0.1):
        fitted("--model", "mlp")


def test_mixed_images_count_for_the_class_that_they_are_mostly_of():
    model = nn.Linear(2, 2)
    state = State(model, torch.optim.SGD(model.parameters()), None, torch.zeros(3).double())
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    state.count(torch.tensor(3.0), logits, torch.tensor([[0.6, 0.4], [0.3, 0.7]]))
    state.count(torch.tensor(1.0), logits, torch.tensor([0, 0]))
    assert state.sums.tolist() == [4, 3, 4]


def test_average_is_none_where_none_is_asked():
    assert moving_average(nn.Linear(2, 2), 0) is None
    assert Augmentation(True, 0.1).mixing is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--sync-batchnorm",), ["--sync-batchnorm", "GPU"]),
        (("--sync-batchnorm", "--model", "mlp"), ["--sync-batchnorm", "mlp"]),
        (("--gradient-checkpointing", "--model", "mlp"), ["--gradient-checkpointing", "mlp"]),
        (("--accumulate", 9, "--model", "mlp"), ["--batch-size", 8, "--accumulate", 9]),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(prepared, arguments, named):
    with refuses(UserError, *named):
        prepared(*arguments, "--name", "a")


def test_tensorboard_gets_the_metrics_and_no_epoch_twice(tmp_path):
    event_file_loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    lines = [{"epoch": e, "train_loss": 1 / e, "validation_loss": None, "learning_rate": 0.1 * e} for e in (1, 2, 3)]
    log = ScalarLog(tmp_path, 0)
    for line in lines[:2]:
        log.write({**line, "train_loss": 9.0})
    log = ScalarLog(tmp_path, 1)  # the run goes on after epoch 1
    for line in lines[1:]:
        log.write(line)
    events = event_file_loader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["learning_rate", "train_loss"]
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [
        (1, 9.0), (2, pytest.approx(1 / 2)), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip


def test_without_tensorboard_an_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with refuses(UserError, "--tensorboard", "pip install tensorboard"):
        ScalarLog(tmp_path, 0)


def test_time_is_shared_between_waiting_and_working():
    model = nn.Linear(2, 2)
    state = State(model, torch.optim.SGD(model.parameters()), None, torch.zeros(3).double())

    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number, number

    for _ in state.timed(slow()):
        time.sleep(0.01)
    assert 0.06 <= state.waited <= state.elapsed() - 0.03
    state.end_epoch({"epoch": 1})
    assert (state.waited, state.step) == (0, 0)
    assert ALONE.largest([3, True]) == [3, 1]
