"""Command line of every benchmark: --help, and refused input, after which no file has changed."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import accuracy
import attentions
import distillation
import fused_accuracy
import generative
import measuring
import numpy as np
import pytest
import speedruns
import sweeps
from scipy.stats import dunnett

import cifarblocks
from cifarblocks.checkpoints.files import file_digest
from cifarblocks.checkpoints.own import Card
from cifarblocks.training.run_folder.weights import save_weights
from cifarblocks.training.stopping import exit_status

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [path for path in FILES if 'if __name__ == "__main__":' in path.read_text()]


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def times(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def first_sentence(script):
    docstring = script.read_text().removeprefix('"""')
    return docstring[: docstring.index(".") + 1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_says_what_it_does_and_does_nothing(script, monkeypatch, capsys):
    kept = (ROOT / "benchmarks" / "results", ROOT / "docs")
    before = times(*kept)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(script), run_name="__main__")
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {script.name} ")
    assert first_sentence(script) in printed
    assert times(*kept) == before


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of the results that are committed; returns it and what is in it."""
    folder = tmp_path / "results"
    shutil.copytree(measuring.RESULTS, folder)
    monkeypatch.setattr(measuring, "RESULTS", folder)
    monkeypatch.setattr(generative, "PAGES", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def main_of(module):
    """The main function of a script that collects runs, and its exit status as its last lines have it."""
    return lambda given: exit_status(f"{module.__name__}.py", lambda: module.main(list(map(Path, given))), "")


def seed(**changes):
    first = json.loads((ROOT / "benchmarks" / "results" / "speedrun.json").read_text())[0][0]
    return {key: value for key, value in (first | changes).items() if value is not None}


def test_the_seeds_of_a_folder_are_a_line(results):
    folder = Path("runs")
    folder.mkdir()
    for number, top1 in enumerate((88.0, 90.0)):
        (folder / f"seed_{number}.json").write_text(json.dumps(seed(seed=number, top1=top1)))
    assert main_of(speedruns)(["runs"]) == 0
    assert [[run["top1"] for run in runs] for runs in json.loads((results / "speedrun.json").read_text())] == [[88, 90]]
    assert "| 2 | 89.00 ± 1.41 % | 88.00, 90.00 |" in (results / "speedrun.md").read_text()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, ["FOLDER", "runs"]),
        ("{", ["runs/seed_1.json"]),
        ("[3]", ["runs/seed_1.json"]),
        (json.dumps({"options": 3}), ["runs/seed_1.json", "images"]),
        (json.dumps(seed(top1=None)), ["runs/seed_1.json", "top1"]),
        (json.dumps(seed(seconds="long")), ["runs/seed_1.json"]),
        (json.dumps(seed(options={"data": 3, "target": "88"})), ["runs/seed_1.json"]),
    ],
)
def test_what_is_no_seed_is_refused_before_the_record_is_written(results, refused, content, named):
    before = contents(results)
    Path("runs").mkdir()
    if content is not None:
        Path("runs/seed_0.json").write_text(json.dumps(seed()))
        Path("runs/seed_1.json").write_text(content)
    refused(main_of(speedruns), ["runs"], "speedruns.py: error", *named)
    assert contents(results) == before


@pytest.mark.parametrize(
    ("module", "model", "key"),
    [(accuracy, "eca_resnet_20", "eca_resnet_20_cifar10_jpeg_5_epochs"), (generative, "vae", "vae")],
)
def test_runs_are_copied_once_all_of_them_are_read(results, refused, module, model, key):
    run, broken = Path("runs") / model / "new", Path("runs") / model / "broken"
    for folder in (run, broken):
        folder.mkdir(parents=True)
        for picture in ("reconstructions", "interpolations", "samples"):
            (folder / f"{picture}.png").write_bytes(b"new")
    record = measuring.read_record(module.__name__)
    summary = record[key]
    (run / "summary.json").write_text(json.dumps(summary | {"seed": 77}))
    (broken / "summary.json").write_text(json.dumps({"model": model}))
    before = contents(results)
    for bad in (broken, Path("none")):
        refused(main_of(module), [run, bad], f"{module.__name__}.py: error", bad / "summary.json")
    assert contents(results) == before
    assert main_of(module)([str(run)]) == 0
    assert "77" in (results / f"{module.__name__}.md").read_text()
    assert record.keys() <= measuring.read_record(module.__name__).keys()


def test_a_run_with_a_teacher_is_compared_with_that_of_its_seed_without_one(results, refused):
    summary = measuring.read_record("accuracy")["eca_resnet_20_cifar10_jpeg_5_epochs"]
    plain = summary["configuration"]["options"]

    def write_run(name, model, seed, top1, weights, **taught):
        folder = Path("runs") / model / name
        folder.mkdir(parents=True)
        (folder / "last.safetensors").write_text(weights)
        configuration = {"options": plain | {"model": model, "seed": seed} | taught, "teacher": "last.safetensors"}
        found = summary | {"model": model, "test_top1": top1, "configuration": summary["configuration"] | configuration}
        (folder / "summary.json").write_text(json.dumps(found))
        return folder

    big = write_run("big", "resnet_56", 0, 94.5, "the teacher")
    taught = {"teacher_weights": file_digest(big / "last.safetensors"), "distillation": 0.9, "temperature": 4.0}
    runs = [write_run(f"plain_{seed}", "resnet_20", seed, 90 + seed, "") for seed in (0, 1)]
    runs += [write_run(f"taught_{seed}", "resnet_20", seed, 90.5 + 2 * seed, "", **taught) for seed in (0, 1)]
    assert main_of(distillation)([big, *runs]) == 0
    page = (results / "distillation.md").read_text()
    assert "| resnet_20 | none |  |  | 90.50 ± 0.71 % |  |  | 0, 1 |" in page
    assert "| resnet_20 | resnet_56, 94.50 % | 0.9 | 4.0 | 91.50 ± 1.41 % | +1.00 | +0.50, +1.50 | 0, 1 |" in page

    before, other = contents(results), write_run("other", "resnet_20", 2, 92, "", **taught)
    refused(main_of(distillation), [*runs, other], "distillation.py: error", "resnet_20/other", "seed")
    refused(main_of(distillation), [*runs, Path("none")], "distillation.py: error", "none/summary.json")
    assert contents(results) == before


def test_a_sweep_is_a_record_once_all_of_its_runs_are_complete(results, refused):
    before = contents(results)
    record = measuring.read_record("optimizer")
    for row in record["rows"]:
        model, optimizer = row["label"].replace("=", "-").split(" ")
        run = Path("runs/optimizer") / model / f"{optimizer}_seed-0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in row["histories"][0]))
        (run / "summary.json").write_text(json.dumps(row["summaries"][0]))
    refused(main_of(sweeps), ["runs"], "sweeps.py: error", "FOLDER", "runs")
    assert main_of(sweeps)(["runs/optimizer"]) == 0
    assert contents(results) == before
    (run / "summary.json").unlink()
    refused(main_of(sweeps), ["runs/optimizer"], "sweeps.py: error", "FOLDER", f"{run.parent.name}/{run.name}")


def write_gates(folder, top1):
    """Runs of the grid `attentions`, whose seeds differ by a point; returns the last."""
    row = measuring.read_record("optimizer")["rows"][0]
    summary, metrics = row["summaries"][0], "".join(json.dumps(line) + "\n" for line in row["histories"][0])
    configuration = summary["configuration"]
    for gate, mean in top1.items():
        options = {"options": configuration["options"] | {"model_argument": {"attention": gate}}}
        for seed in range(3):
            run = folder / "resnet_20" / f"attention-{gate}_seed-{seed}"
            run.mkdir(parents=True)
            found = summary | {"test_top1": mean - 1 + seed, "configuration": configuration | options}
            (run / "summary.json").write_text(json.dumps(found))
            (run / "metrics.jsonl").write_text(metrics)
    return run


def test_the_gates_of_a_sweep_are_compared_with_none(results, refused, monkeypatch):
    """The standard deviation over the seeds is 1 of each, so the standard error of a difference is near √(2/3)."""
    means = dict.fromkeys(cifarblocks.list_attentions(), 80.0) | {"eca": 83.0, "lsk": 83.5, "msca": 82.9, "se": 82.0}
    run = write_gates(Path("runs/attentions"), means)
    steps = dict.fromkeys(means, 1.0) | {"eca": 1.25, "lsk": 2.0, "msca": 1.5, "se": 1.125}

    def measured(gates):
        assert sorted(gates) == sorted(means)
        times = {gate: {"ratio": steps[gate], "quartiles": [1, 2, 3], "seconds": steps[gate] / 10} for gate in gates}
        return {gate: {"training step": time, "inference": time} for gate, time in times.items()}

    before = contents(results)
    monkeypatch.setattr(attentions, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["attentions.py", "runs/attentions"])
    (run / "summary.json").rename(run / "moved")
    refused(lambda _: attentions.main(), [], "attentions.py: error", "FOLDER", f"{run.parent.name}/{run.name}")
    assert contents(results) == before
    (run / "moved").rename(run / "summary.json")
    diverging = Path("runs/attentions/resnet_20/attention-simam_seed-1")
    (diverging / "summary.json").unlink()
    diverging.with_name(f"{diverging.name}.log").write_text("cifarblocks train: error: the loss is nan in epoch 1\n")
    assert attentions.main() == 0
    page = (results / "attentions.md").read_text()
    assert page == attentions.table(measuring.read_record("attentions"))
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [line[0].strip("|` ") for line in lines[:4]] == ["lsk", "eca", "msca", "se"]
    shown = {line[0].strip("|` "): line[1:] for line in lines}
    # simam has the seeds 0 and 2, two points apart: variance 2, one degree of freedom. The ten others have 1 and two.
    error = (22 / 21 * 2 / 3) ** 0.5
    assert shown["lsk"][:3] == ["83.50 ± 1.00 %", "3", f"**+3.50 ± {error:.2f}**"]
    assert shown["simam"][1:3] == ["2", f"+0.00 ± {(22 / 21 * 5 / 6) ** 0.5:.2f}"]
    assert shown["se"][2] == f"+2.00 ± {error:.2f}"
    assert shown["none"][2] == ""
    assert shown["msca"][5:8] == ["1.50", "1.00–3.00", "150"]
    assert "`attention-simam_seed-1`" in page
    assert page.splitlines()[-1].endswith(": `lsk`, `eca`.")  # msca takes longer than eca and is no better


def test_the_times_of_a_gate_are_divided_by_those_of_none_in_the_same_turn(monkeypatch):
    monkeypatch.setattr(attentions, "BATCH", 2)

    def in_turns(runs, turns):
        for run in runs:
            run()
        return [[1.0, 3.0], [2.0, 5.0], [4.0, 16.0]]

    monkeypatch.setattr(attentions, "in_turns", in_turns)
    times = attentions.measure(["none", "eca"])
    assert times["eca"]["inference"] == {"ratio": 3.0, "quartiles": [2.5, 3.0, 4.0], "seconds": 5.0}
    assert times["eca"] == dict.fromkeys(["training step", "inference"], times["eca"]["inference"])
    assert times["none"]["inference"] == {"ratio": 1.0, "quartiles": [1.0, 1.0, 1.0], "seconds": 2.0}


def test_the_bar_for_a_gate_is_that_of_dunnetts_test():
    same, error = np.array([-1.0, 0.0, 1.0]), (2 / 3) ** 0.5
    for errors, significant in ((attentions.BAR - 0.1, False), (attentions.BAR, True)):
        found = dunnett(same + errors * error, *[same] * 9, control=same, rng=np.random.default_rng(0))
        assert (found.pvalue[0] < 0.05) == significant


def test_a_run_without_its_pictures_is_refused(results, refused):
    run = Path("run")
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(measuring.read_record("generative")["acgan"]))
    before = contents(results)
    refused(main_of(generative), ["run"], "generative.py: error", "RUN", "run", "samples")
    assert contents(results) == before


def test_weights_that_cannot_be_scored_are_refused(results, refused):
    before = contents(results)
    arguments = {"num_classes": 10, "image_size": [32, 32]}
    card = Card("cnn", arguments, list("abcdefghij"), (32, 32), [0.5] * 3, [0.25] * 3, "float32", "letters", 1)
    save_weights(Path("letters.safetensors"), cifarblocks.create_model("cnn", **arguments).state_dict(), card)
    Path("text.safetensors").write_text("no weights")
    for arguments, named in (
        ("--weights none.safetensors --data digits", ["--weights", "none.safetensors"]),
        ("--weights text.safetensors --data digits", ["--weights", "text.safetensors"]),
        ("--weights letters.safetensors --data faces", ["--data", "a folder", "faces"]),
        ("--weights letters.safetensors --data digits", ["--data", "digits", "a", "0"]),
        ("--data digits", ["--weights"]),
    ):
        refused(fused_accuracy.main, arguments.split(), "fused_accuracy.py: error", *named)
    assert contents(results) == before


def test_a_command_line_is_read_by_its_script(monkeypatch, refused):
    def typed(given, *arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks/speedruns.py", *given])
        return measuring.typed("What it does.", *arguments)

    assert typed([]) == typed([], "NETWORK") == []
    assert typed(["ECA", "GnConv"], "BLOCK") == ["ECA", "GnConv"]
    refused(lambda given: typed(given, "FOLDER", "+"), [], "speedruns.py: error", "FOLDER")
    refused(typed, ["ECA", "GnConv"], "speedruns.py: error", "ECA", "GnConv")
