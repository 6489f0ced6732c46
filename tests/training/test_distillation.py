"""Distillation: its loss against closed forms, its teacher left as it is, and runs that have one."""

import hashlib
import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cards import CARD, write_weights
from commands import EVERYTHING_RANDOM, after_steps
from refusals import refuses
from run_folders import assert_same, assert_same_run, metrics, summary, untimed, weights
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cifarblocks.checkpoints.own import load_weights
from cifarblocks.cli import finetune, search, sweep, train
from cifarblocks.training.compare.space import check_space, read_range
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.data.datasets import load_data
from cifarblocks.training.distillation import Distillation, Renormalised, load_teacher
from cifarblocks.training.errors import UserError
from cifarblocks.training.loop import fit
from cifarblocks.training.options.parse import combine, read_options

TEACHER = "teacher.safetensors"
CPU = torch.device("cpu")


@pytest.fixture
def teacher(tmp_path):
    """The teacher of runs on the shades, in teacher.safetensors; its network."""
    return write_weights(tmp_path / TEACHER)


class Fixed(nn.Module):
    """A teacher that says the same of any images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return 1 * self.logits


def labels_loss(images, logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")


def by_hand(student, teacher, labels, share, temperature):
    """Equation 1 of the paper for each class of each image, in Python's numbers."""
    total = 0.0
    for own, taught, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        soft = [[math.exp(z / temperature) for z in logits] for logits in (own, taught)]
        q, p = ([part / sum(parts) for part in parts] for parts in soft)
        divergence = sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
        entropy = -math.log(math.exp(own[label]) / sum(map(math.exp, own)))
        total += (1 - share) * entropy + share * temperature**2 * divergence
    return total


@pytest.mark.parametrize(("share", "temperature"), [(0.9, 4.0), (0.5, 1.0), (1.0, 0.5), (0.0, 20.0)])
def test_the_loss_is_that_of_the_paper(share, temperature):
    student, taught = 3 * torch.randn(2, 5, 7, dtype=torch.float64)
    labels, images = torch.tensor([0, 6, 3, 3, 1]), torch.zeros(5, 3, 2, 2, dtype=torch.float64)
    loss = Distillation(Fixed(taught), labels_loss, share, temperature)(images, student, labels)
    assert loss.item() == pytest.approx(by_hand(student, taught, labels.tolist(), share, temperature), rel=1e-12)
    soft = F.log_softmax(student / temperature, 1), F.softmax(taught / temperature, 1)
    whole = (1 - share) * F.cross_entropy(student, labels) + share * temperature**2 * nn.KLDivLoss(
        reduction="batchmean"
    )(*soft)
    assert loss.item() == pytest.approx(5 * whole.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [50.0, 1000.0])
def test_at_high_temperatures_logits_are_matched_whatever_the_temperature(temperature):
    """Equation 4: with logits of zero mean the gradient is (z - v) / N, for T² has taken 1 / T² out."""
    student, taught = (logits - logits.mean(1, keepdim=True) for logits in torch.randn(2, 4, 10, dtype=torch.float64))
    student.requires_grad_()
    images = torch.zeros(4, 3, 2, 2, dtype=torch.float64)
    Distillation(Fixed(taught), labels_loss, 1.0, temperature)(images, student, torch.zeros(4).long()).backward()
    torch.testing.assert_close(student.grad, (student.detach() - taught) / 10, rtol=0, atol=1 / temperature)


def test_its_gradient_is_that_of_softened_probabilities_and_the_teacher_has_none():
    student, taught = map(nn.Parameter, torch.randn(2, 4, 10, dtype=torch.float64))
    images = torch.zeros(4, 3, 2, 2, dtype=torch.float64)
    Distillation(Fixed(taught), labels_loss, 1.0, 3.0)(images, student, torch.zeros(4).long()).backward()
    q, p = (logits.detach().div(3).softmax(1) for logits in (student, taught))
    torch.testing.assert_close(student.grad, 3 * (q - p))
    assert taught.grad is None


def test_it_is_computed_in_the_precision_of_the_images():
    """Logits of autocast are bfloat16, of 8 bits; their softmax would be of no more."""
    student, taught = (3 * torch.randn(2, 5, 7)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = Distillation(Fixed(taught), labels_loss, 1.0, 4.0)(torch.zeros(5, 3, 2, 2), student, torch.arange(5))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(student, taught, range(5), 1.0, 4.0), rel=1e-5)


@pytest.mark.parametrize("accelerate", [False, True])
def test_a_teacher_is_accelerated_where_its_student_is(teacher, prepared, accelerate):
    found = prepared("--teacher", TEACHER, *([] if accelerate else ["--no-accelerate"])).loss.teacher
    assert any(isinstance(part, nn.BatchNorm2d) for part in found.modules()) is not accelerate
    images = torch.randn(4, 3, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), teacher.double()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [([0.5] * 3, [0.25] * 3), ([0.1, 0.4, 0.7], [0.9, 0.3, 0.2])])
def test_a_teacher_sees_pixels_as_it_knows_them(teacher, tmp_path, mean, std):
    found = load_teacher(str(tmp_path / TEACHER), replace(CARD, mean=mean, std=std)).double()
    pixels = torch.randint(0, 256, (4, 6, 8, 3), dtype=torch.uint8)
    own, given = (Normalisation(*both, CPU, torch.float64)(pixels) for both in ((CARD.mean, CARD.std), (mean, std)))
    with torch.no_grad():
        torch.testing.assert_close(found(given), teacher.double()(own), rtol=1e-9, atol=1e-9)


def test_images_normalised_alike_reach_the_teacher_to_the_bit():
    seen = torch.randn(2, 3, 6, 8)
    assert torch.equal(Renormalised(nn.Identity(), CARD, CARD)(seen), seen)


def test_a_teacher_stays_as_it_is_and_sees_the_batches_of_its_student(teacher, prepared):
    options = ("--mixup", 0.4, "--erasing", 0.5, "--policy", "trivial", "--accumulate", 2, "--epochs", 2)
    options += ("--mean", *CARD.mean, "--std", *CARD.std)
    run, seen = prepared("--teacher", TEACHER, "--no-accelerate", *options), {"student": [], "teacher": []}
    taught = run.loss.teacher

    def keep(module, inputs):
        for who, network in (("student", run.state.model), ("teacher", taught.model)):
            if module is network and (who == "teacher" or module.training):
                seen[who].append(inputs[0].clone())

    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    with register_module_forward_pre_hook(keep):
        list(fit(run))
    assert len(seen["student"]) == 2 * 2 * run.batches.steps
    assert_same(seen["student"], seen["teacher"])
    assert_same(before, dict(taught.state_dict()))
    assert_same(
        {f"model.{name}": tensor.double() if tensor.is_floating_point() else tensor for name, tensor in
         teacher.state_dict().items()},
        {name: tensor for name, tensor in before.items() if name.startswith("model.")},
    )  # fmt: skip
    assert not any(module.training for module in taught.modules())
    assert all(parameter.grad is None for parameter in taught.parameters())


def test_a_share_of_0_is_training_without_a_teacher_and_of_1_without_labels(teacher, fitted):
    """The first weights are the same: loading a teacher draws none of the student's numbers."""

    def trained(name, *arguments):
        return fitted(*arguments, "--name", name).state.model.state_dict()

    plain, none = trained("plain"), trained("none", "--teacher", TEACHER, "--distillation", 0)
    assert_same(dict(plain), dict(none))
    all_ = [
        trained(f"all{number}", "--teacher", TEACHER, "--distillation", 1, "--label-smoothing", number)
        for number in (0, 0.5)
    ]
    assert_same(*map(dict, all_))
    assert any(not torch.equal(all_[0][name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--accumulate", 3),
        ("--gradient-checkpointing", "--model", "resnet_20"),
        pytest.param(("--compile",), marks=pytest.mark.slow),
    ],
)
def test_how_a_step_is_computed_changes_nothing(teacher, fitted, arguments):
    common = ("--model", "mlp", "--lr", 0.1, "--clip", 1, "--teacher", TEACHER, "--mixup", 0.4)
    common += ("--model", "resnet_20") * ("resnet_20" in arguments)
    one, other = fitted(*common, "--name", "one"), fitted(*common, *arguments, "--name", "other")
    mine, theirs = (run.state.model.state_dict() for run in (one, other))
    for name in mine:
        assert (mine[name] - theirs[name]).abs().max() <= 1e-9 * mine[name].abs().max(), name
    assert one.state.history[0]["train_loss"] == pytest.approx(other.state.history[0]["train_loss"], rel=1e-12)


def test_two_processes_equal_one_without_batchnorm(teacher, command, together, image_folder):
    """In float64 at the same global batch of 7, shared as 4 and 3, with mixed images."""
    arguments = ("--model", "mlp", "--data", "folder:shades", "--batch-size", 7, "--epochs", 2, "--precision",
                 "float64", "--mixup", 0.4, "--teacher", TEACHER)  # fmt: skip
    command("train", *arguments, "--name", "1")
    together("train", *arguments, "--name", "2")
    folders = [Path("runs/mlp") / name for name in "12"]
    one, two = (weights(folder)["last"] for folder in folders)
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-9 * one[name].abs().max(), name
    for ours, theirs in zip(*map(untimed, folders), strict=True):
        for key in ("train_loss", "train_top1", "validation_loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-9)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing that cifarblocks train does answers it."""


def test_killed_and_resumed_it_is_the_run_that_nobody_touched(teacher, command, image_folder):
    def kill(_):
        if next(taken) == 3:
            raise Killed

    arguments = (*EVERYTHING_RANDOM, "--teacher", TEACHER)
    command("train", *arguments, "--name", "whole")
    kills = 0
    while not Path("runs/eca_resnet_20/cut/summary.json").exists():
        taken = itertools.count(1)
        try:
            with after_steps(kill):
                command("train", *arguments, "--name", "cut")
        except Killed:
            kills += 1
        assert kills < 10
    assert kills > 2
    assert_same_run(*(Path("runs/eca_resnet_20") / name for name in ("whole", "cut")))


SHADES = ("--model", "mlp", "--data", "folder:shades", "--batch-size", 8, "--epochs", 1)


def test_a_run_is_resumed_with_its_teacher_wherever_that_lies(teacher, command, image_folder, refused):
    arguments = (*SHADES, "--name", "a", "--resume", "--no-test")
    command("train", *arguments, "--teacher", TEACHER)
    folder = Path("runs/mlp/a")
    record = json.loads((folder / "configuration.json").read_text())
    digest = hashlib.sha256(Path(TEACHER).read_bytes()).hexdigest()[:16]
    assert (record["teacher"], record["options"]["teacher_weights"]) == (TEACHER, digest)
    assert (record["options"]["distillation"], record["options"]["temperature"]) == (0.9, 4)
    assert "teacher" not in record["options"]

    other = Path("elsewhere/other.safetensors")
    other.parent.mkdir()
    shutil.copy(TEACHER, other)
    command("train", *arguments, "--teacher", other)
    write_weights(other, seed=1)
    refused(train.main, [*arguments, "--teacher", other], folder, "teacher_weights", digest)
    refused(train.main, arguments, folder, "teacher_weights", digest, None)
    refused(train.main, [*arguments, "--teacher", TEACHER, "--temperature", 2], folder, "temperature", 4.0, 2.0)


@pytest.mark.parametrize("older", [False, True])
def test_a_run_without_a_teacher_does_not_go_on_with_one(teacher, command, image_folder, refused, older):
    """Nor does one from before there were teachers, whose records do not name them."""
    arguments = (*SHADES, "--name", "a", "--resume", "--no-test")
    command("train", *arguments)
    if older:
        path = Path("runs/mlp/a/configuration.json")
        record = json.loads(path.read_text())
        del record["teacher"]
        for name in ("teacher_weights", "distillation", "temperature"):
            del record["options"][name]
        path.write_text(json.dumps(record))
        command("train", *arguments)
    refused(train.main, [*SHADES, "--name", "a", "--resume", "--teacher", TEACHER], "runs/mlp/a", "teacher_weights")


@pytest.fixture
def teachers(tmp_path, image_folder, monkeypatch):
    """Files that teach nothing of the shades, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_weights(Path("order.safetensors"), classes=["light", "dark"])
    write_weights(Path("three.safetensors"), classes=list("abc"), arguments={"num_classes": 3, "image_size": [6, 8]})
    write_weights(Path("large.safetensors"), arguments={"num_classes": 2, "image_size": [8, 8]}, image_size=(8, 8))
    write_weights(Path(TEACHER))
    Path("text.safetensors").write_text("no weights")
    content = Path(TEACHER).read_bytes()
    Path("damaged.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--teacher order.safetensors", ["--teacher", "order.safetensors", ["light", "dark"], ["dark", "light"]]),
        ("--teacher three.safetensors", ["--teacher", "three.safetensors", "3 classes", "2 classes"]),
        ("--teacher large.safetensors", ["--teacher", "large.safetensors", "8x8", "6x8"]),
        ("--teacher none.safetensors", ["--teacher", "none.safetensors"]),
        ("--teacher text.safetensors", ["--teacher", "text.safetensors"]),
        ("--teacher damaged.safetensors", ["--teacher", "damaged.safetensors", "digest"]),
        ("--teacher shades", ["--teacher", "shades", "last.safetensors"]),
        (f"--teacher {'x' * 300}", ["--teacher", "x" * 300]),
        (f"--teacher {TEACHER} --temperature 0", ["--temperature", 0]),
        (f"--teacher {TEACHER} --distillation 1.5", ["--distillation", 1.5]),
    ],
)
def test_what_cannot_teach_is_refused(teachers, refused, arguments, named):
    refused(train.main, [*SHADES, *arguments.split()], "cifarblocks train: error", *named)
    assert not Path("runs").exists()


def test_a_recipe_may_say_how_and_what_is_typed_wins():
    recipe = {"distillation": 0.5, "temperature": 2.0}
    assert [combine(recipe, {})[name] for name in recipe] == [None, None]
    assert [combine(recipe, {"teacher": TEACHER})[name] for name in recipe] == [0.5, 2]
    assert [combine(recipe, {"teacher": TEACHER, "temperature": 8.0})[name] for name in recipe] == [0.5, 8]
    assert [combine({}, {"teacher": TEACHER})[name] for name in recipe] == [0.9, 4]


def test_a_student_starts_from_weights_but_not_with_all_but_its_last_layer_frozen(
    teacher, command, image_folder, refused
):
    write_weights(Path("start.safetensors"), seed=1)
    arguments = ("--weights", "start.safetensors", "--data", "folder:shades", "--batch-size", 8, "--epochs", 1)
    command("finetune", *arguments, "--teacher", TEACHER, "--name", "a")
    options = summary(Path("runs/eca_resnet_20/a"))["configuration"]["options"]
    digests = [hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16] for name in ("start.safetensors", TEACHER)]
    assert [options[name] for name in ("weights", "teacher_weights")] == digests
    refused(finetune.main, [*arguments, "--teacher", TEACHER, "--freeze"], "--teacher", "--freeze")
    refused(finetune.main, [*arguments, "--temperature", 2, "--freeze"], "--temperature", 2.0, "--teacher")


def test_searches_and_sweeps_have_teachers(teachers, command, refused):
    names, ranges = ("distillation", "temperature"), ("distillation=0..1", "temperature=1..20")
    space = dict(map(read_range, ranges))
    digest = hashlib.sha256(Path(TEACHER).read_bytes()).hexdigest()[:16]
    assert check_space(space, ["--teacher", TEACHER]).teacher_weights == digest
    for name in names:
        with refuses(UserError, f"--search {name}", "--teacher"):
            check_space({name: space[name]}, [])
    refused(search.main, ["--search", "teacher=a,b"], "--search", "teacher")

    Path("grid.toml").write_text(f'[[runs]]\nmodel = "mlp"\nteacher = "{TEACHER}"\ntemperature = [1, 4]\n')
    lines = command("sweep", "grid.toml", "--dry-run").stdout.splitlines()
    read = [read_options(line.split()[2:]) for line in lines]
    assert [(options.teacher_weights, options.temperature) for options in read] == [(digest, 1), (digest, 4)]
    refused(sweep.main, ["grid.toml", "--dry-run", "--set", "teacher=none"], "--teacher", "none")


def test_a_student_learns_the_digits_from_a_teacher(command):
    """Run it as a person types it; the teacher saw the images six times, and is sure of them."""
    command("train", "--model", "mlp", "--epochs", 6, "--image-size", 8, "--label-smoothing", 0, "--no-test",
            "--name", "teacher")  # fmt: skip
    teacher = Path("runs/mlp/teacher/last.safetensors")
    common = ("train", "--model", "mlp", "--epochs", 1, "--image-size", 8, "--precision", "float32")
    printed = command(*common, "--name", "student", "--teacher", teacher).stdout
    digest = hashlib.sha256(teacher.read_bytes()).hexdigest()[:16]
    assert f"teacher last.safetensors ({digest})" in printed
    assert "distillation 0.9, temperature 4.0" in printed
    command(*common, "--name", "plain")
    student, plain = (Path("runs/mlp") / name for name in ("student", "plain"))
    assert metrics(student)[0]["train_loss"] != metrics(plain)[0]["train_loss"]
    assert divergence(student, teacher) < 0.75 * divergence(plain, teacher)
    assert summary(student)["configuration"]["teacher"] == "last.safetensors"
    assert "teacher" not in json.dumps(metrics(student))


def divergence(folder, teacher):
    """Return how far a run's network is from the teacher on the test digits."""
    model, card = load_weights(folder / "last.safetensors")
    taught, _ = load_weights(teacher)
    pixels = load_data("digits", Path("data"), 8).test.pixels
    images = Normalisation(card.mean, card.std, CPU, torch.float32)(pixels)
    with torch.no_grad():
        soft = [network(images).div(4).log_softmax(1) for network in (model, taught)]
    return F.kl_div(*soft, reduction="batchmean", log_target=True).item()
