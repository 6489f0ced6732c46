"""cifarblocks search: values, pruning, files, and no use of the test images."""

import os
import signal
import threading
import time
from pathlib import Path

import optuna
import pytest
from cards import write_weights
from PIL import Image
from run_folders import metrics, summary

from cifarblocks.cli import search, train
from cifarblocks.training.compare.space import read_range, whole_numbers
from cifarblocks.training.compare.study import ENDED
from cifarblocks.training.compare.trial import remove_weights
from cifarblocks.training.run_folder.folder import write_metrics

MLP = ("--model", "mlp")
ECA = ("--model", "eca_resnet_20")  # with --drop-path


# What places a run, or makes trials measure something else.
UNSEARCHED = ("seed", "output", "name", "final", "share", "model", "data", "data-dir", "resume", "model-argument")


def run(*arguments: object) -> int:
    return search.main([*MLP, *map(str, arguments)])


def ended(name: str = "mlp") -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///runs/search/{name}/study.db"
    return optuna.load_study(study_name="search", storage=storage).get_trials(states=ENDED)


def test_the_learning_rate_of_the_lowest_loss_is_found(stand_in, capsys):
    """(log10 lr)² over five powers of ten is lowest at 1; a random search of 25 is off by 1.5 times or so."""
    assert run("--search", "lr=0.001..100", "--trials", 25, "--epochs", 1) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.001 to 100 on a logarithmic scale" in printed
    command = printed.splitlines()[-1].split()
    assert command[:4] == ["cifarblocks", "train", "--model", "mlp"]
    assert "--share" not in command
    assert 0.7 < float(command[command.index("--lr") + 1]) < 1.4
    trials = ended()
    assert len(trials) == 25
    best = min(trials, key=lambda trial: trial.value or 99)
    assert command[command.index("--lr") + 1] == str(best.user_attrs["values"]["lr"])


def test_a_study_does_not_go_on_with_another_teacher(stand_in, refused):
    arguments = ("--search", "temperature=1..20", "--trials", 1, "--epochs", 1, "--teacher")
    for seed, name in enumerate(("one.safetensors", "other.safetensors")):
        write_weights(Path(name), seed)
    Path("elsewhere.safetensors").write_bytes(Path("one.safetensors").read_bytes())
    assert run(*arguments, "one.safetensors") == run(*arguments, "elsewhere.safetensors") == 0
    refused(search.main, [*MLP, *arguments, "other.safetensors"], "teacher_weights")


def test_no_trial_may_test_and_all_have_the_share(stand_in):
    assert run("--search", "lr=0.1..1", "--trials", 2, "--share", 0.3, "--epochs", 2) == 0
    for number in (0, 1):
        command = Path(f"runs/search/mlp/trial-000{number}.log").read_text().splitlines()[0]
        assert "--no-test" in command
        assert "--share 0.3" in command
    assert not list(Path().rglob("summary.json"))


def test_a_trial_that_gets_no_better_or_is_worse_than_others_is_cut_short(stand_in):
    """The stand-in's loss falls with every epoch, so patience does not end it, but the pruner does."""
    options = ("--search", "lr=1..1000", "--trials", 12, "--epochs", 6)
    assert run(*options, "--patience", 1) == 0
    states = [trial.state for trial in ended()]
    assert states.count(optuna.trial.TrialState.PRUNED) >= 2
    pruned = [trial for trial in ended() if trial.state == optuna.trial.TrialState.PRUNED]
    complete = [trial for trial in ended() if trial.state == optuna.trial.TrialState.COMPLETE]
    assert all(1 < max(trial.intermediate_values) < 6 for trial in pruned)
    assert all(max(trial.intermediate_values) == 6 for trial in complete)
    assert min(t.params["lr"] for t in pruned) > min(t.params["lr"] for t in complete)


def test_patience_or_the_pruner_ends_a_trial(tmp_path):
    from cifarblocks.training.compare import trial as study

    losses = [1.0, 0.5, 0.6, 0.7, 0.4, 0.3]
    others = dict.fromkeys(("train_loss", "train_top1", "validation_top1", "images_per_second", "seconds"), 1.0)
    lines = [{"epoch": number, "validation_loss": loss, **others} for number, loss in enumerate(losses, start=1)]
    write_metrics(tmp_path, lines)
    (tmp_path / "configuration.json").write_text('{"options": {"epochs": 6}}')
    reported = []

    class Ended:
        status = 0

    class Watched:
        prune = False

        def report(self, loss, epoch):
            reported.append(epoch)

        def should_prune(self):
            return self.prune

    assert study.watch(Ended(), tmp_path, Watched(), patience=2) == study.IMPATIENT
    assert reported == [1, 2, 3, 4]
    reported.clear()
    assert study.watch(Ended(), tmp_path, Watched(), patience=3) == study.WHOLE
    assert reported == [1, 2, 3, 4, 5, 6]
    reported.clear()
    Watched.prune = True
    assert study.watch(Ended(), tmp_path, Watched(), patience=3) == study.PRUNED
    assert reported == [1, 2, 3]  # nothing in the first third


def test_metrics_that_no_trial_wrote_are_named(stand_in, refused):
    folder = Path("runs/search/mlp/mlp/trial-0000")
    folder.mkdir(parents=True)
    line = dict.fromkeys(("train_loss", "train_top1", "validation_top1", "images_per_second", "seconds"), 1.0)
    write_metrics(folder, [{"epoch": 1, "validation_loss": None, **line}])
    refused(search.main, [*MLP, "--search", "lr=1,2", "--trials", 1, "--epochs", 1], folder / "metrics.jsonl", folder)


def test_a_failed_trial_is_told_and_the_search_goes_on(stand_in, capsys):
    assert run("--search", "lr=13,1", "--trials", 6, "--epochs", 1) == 0
    printed = capsys.readouterr().out
    assert "lr 13: no validation loss, 13 is unlucky" in printed
    assert "--lr 1" in printed.splitlines()[-1]
    assert run("--search", "lr=13,13.0", "--name", "bad", "--trials", 2, "--epochs", 1) == 1
    assert "no trial was completed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "a/b", "..", "", "a\nb"])
def test_a_study_is_written_in_its_folder_alone(stand_in, refused, name):
    refused(search.main, [*MLP, "--search", "lr=1,2", "--trials", 1, "--name", name], "--name", repr(name))
    assert not Path("runs").exists()


def test_a_question_mark_does_not_end_the_address_of_the_study(stand_in, refused):
    refused(search.main, [*MLP, "--search", "lr=1,2", "--trials", 1, "--name", "x?y"], "'?'", "runs/search/x?y")
    assert not Path("runs/search/x").exists()


def test_what_is_removed_of_a_trial_is_what_training_wrote(tmp_path):
    for name in ("last.safetensors", "checkpoint.pt", "mine.pt", "mine.safetensors"):
        (tmp_path / name).touch()
    remove_weights(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pt", "mine.safetensors"]


def test_a_search_that_is_interrupted_and_repeated_equals_one_that_is_not(stand_in, capsys):
    options = ("--search", "lr=0.01..10", "--trials", 5, "--epochs", 2)
    assert run(*options, "--name", "whole") == 0

    hold = Path("runs/search/cut/hold-trial-0002")
    hold.parent.mkdir()
    hold.touch()

    def interrupt():
        while not Path("runs/search/cut/mlp/trial-0002/metrics.jsonl").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run(*options, "--name", "cut") == 143
    assert "interrupted by SIGTERM; repeat the command to continue" in capsys.readouterr().err
    assert len(ended("cut")) == 2
    hold.unlink()
    assert run(*options, "--name", "cut") == 0
    whole, cut = ended("whole"), ended("cut")
    assert [trial.params for trial in cut] == [trial.params for trial in whole]
    assert [trial.value for trial in cut] == [trial.value for trial in whole]
    assert cut[2].user_attrs["folder"] == "trial-0002"
    assert Path("runs/search/cut/trial-0002.log").read_text().count("$ ") == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ["--search", "lr=0.05..5"]),
        (("--search", "lr"), ["--search", "NAME=ONE,OTHER", "'lr'"]),
        (("--search", "lr=1,"), ["--search", "'lr=1,'", "empty"]),
        (("--search", "policy=none,none"), ["--search", "'policy=none,none'", "'none'", "twice"]),
        (("--search", "lr=3..1"), ["--search", "lr=3..1"]),
        (("--search", "lr=-1..1"), ["--search", "lr=-1", "--lr", 0]),
        (("--search", "speed=0..1"), ["--search", "speed=0", "--speed"]),
        (("--search", "model-argument.width=1..2"), ["mlp", "width"]),
        (("--search", "optimizer=sgd,adam"), ["--search", "optimizer=adam", "--optimizer", "adamw"]),
        (("--search", "lr=0.1..1", "--lr", 1), ["--search", "lr", "--lr"]),
        (("--search", "lr=0.1..1", "--lr=1"), ["--search", "lr", "--lr"]),
        (("--search", "mirror=true,false", "--no-mirror"), ["--search", "mirror"]),
        (("--search", "model-argument.dropout=0..1", "--model-argument", "dropout=0"), ["--search", "dropout"]),
        *(
            ((*ECA, "--search", f"{name}=0..0.3", "--search", f"model-argument.{name}=0,0.2"), ["the same rate", name])
            for name in ("drop_path", "dropout")
        ),
        *((("--search", f"{name}=1,2"), ["--search", name]) for name in UNSEARCHED),
        (("--search", "lr=0.1..1", "--final"), ["--final"]),
        (("--search", "lr=0.1..1", "--epoch", 1), ["--epoch", "--epochs"]),
    ],
)
def test_what_cannot_work_is_refused(arguments, named, stand_in, refused):
    refused(search.main, [*MLP, *arguments], "cifarblocks search: error", *named)
    assert not Path("runs").exists()


def test_a_study_is_not_gone_on_with_by_another_search(stand_in, refused):
    assert run("--search", "lr=0.1..1", "--trials", 1, "--epochs", 1) == 0
    for changed, named in (
        (("--search", "lr=0.1..2", "--trials", 2, "--epochs", 1), ["runs/search/mlp", "search", "lr"]),
        (("--search", "lr=0.1..1", "--trials", 2, "--epochs", 3), ["epochs", 1, 3, "--name"]),
    ):
        refused(search.main, [*MLP, *changed], *named)
    Path("runs/search/mlp/study.db").write_bytes(b"no study" * 1000)
    refused(search.main, [*MLP, "--search", "lr=0.1..1", "--trials", 1, "--epochs", 1], "runs/search/mlp/study.db")


def test_a_journal_that_is_no_file_is_refused_unopened(no_files, refused):
    for kind, path in no_files.items():
        storage = ["--storage", path, "--trials", 1, "--name", kind]
        refused(search.main, [*MLP, "--search", "lr=0.1..1", *storage], "--storage", path, f"a {kind}")


def test_ranges_are_logarithmic_from_a_factor_of_ten_on():
    scales = {text: read_range(f"x={text}")[1].log for text in ("0..10", "1..9.5", "1..10.0", "0.1..1", "8..256")}
    assert scales == {"0..10": False, "1..9.5": False, "1..10.0": True, "0.1..1": True, "8..256": True}


def test_numbers_are_whole_where_train_takes_no_others():
    texts = ("mixup=0..1", "lr=1..10", "epochs=5..20", "model-argument.kernel_size=1..9", "optimizer=sgd,adamw")
    kinds = {}
    for text in texts:
        key, distribution = read_range(text)
        kinds[key] = type(whole_numbers(key, distribution, ["--model", "eca_resnet_20"])).__name__
    assert list(kinds.values()) == ["FloatDistribution"] * 2 + ["IntDistribution"] * 2 + ["CategoricalDistribution"]


def test_switches_are_searched(stand_in):
    assert run("--search", "mirror=true,false", "--trials", 6, "--epochs", 1) == 0
    logs = [Path(f"runs/search/mlp/trial-000{number}.log").read_text() for number in range(6)]
    assert {"--mirror" in log.split() for log in logs} == {True, False}
    assert all(("--no-mirror" in log.split()) != ("--mirror" in log.split()) for log in logs)


def test_values_that_do_not_go_together_are_a_trial_and_the_search_goes_on(stand_in, capsys):
    options = ("--search", "epochs=2..3", "--search", "warmup_epochs=1.9..2.5", "--trials", 8)
    assert run(*options) == 0
    printed = capsys.readouterr().out
    assert ": refused: --warmup-epochs must be below --epochs 2, got 2." in printed
    trials = ended()
    assert len(trials) == 8
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}


def test_a_search_of_real_trials_leaves_the_test_images_alone(command):
    printed = command("search", *MLP, "--search", "lr=0.01..1", "--trials", 1, "--epochs", 2).stdout
    folder = Path("runs/search/mlp")
    assert sorted(path.name for path in (folder / "mlp/trial-0000").iterdir()) == [
        "configuration.json",
        "metrics.jsonl",
    ]
    log = (folder / "trial-0000.log").read_text()
    assert "test top-1" not in log
    assert "259 training, 143 validation" in log  # a fifth of 1,294
    losses = [line["validation_loss"] for line in metrics(folder / "mlp/trial-0000")]
    assert f"best validation loss {min(losses):.4f}" in printed
    with Image.open(folder / "study.png") as picture:
        assert picture.size == (1170, 624)


def test_a_run_that_left_the_test_images_alone_is_tested_by_the_same_command_without_that(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = [*MLP, "--epochs", "1", "--image-size", "8", "--share", "0.1", "--name", "a", "--resume"]
    assert train.main([*command, "--no-test"]) == 0
    folder = Path("runs/mlp/a")
    assert not (folder / "summary.json").exists()
    capsys.readouterr()
    assert train.main(command) == 0
    assert "resuming run runs/mlp/a after epoch 1" in capsys.readouterr().out
    result = summary(folder)
    assert (result["epochs"], result["training_images"], result["test_images"]) == (1, 129, 360)


@pytest.mark.slow
def test_the_best_values_are_trained_with(script, tmp_path):
    options = ("--model", "mlp", "--search", "lr=0.02..0.5", "--search", "optimizer=sgd", "--trials", 4, "--epochs", 4)
    finished = script("search", *options, "--train")
    assert "1,294 training" in finished.stdout
    (folder,) = (tmp_path / "runs" / "mlp").iterdir()
    command = finished.stdout.partition("to train with it:\n")[2].splitlines()[0].split()
    assert summary(folder)["configuration"]["options"]["lr"] == float(command[command.index("--lr") + 1])
    assert summary(folder)["test_top1"] > 85
