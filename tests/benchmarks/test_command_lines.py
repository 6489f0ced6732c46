"""Every script of the benchmarks as it is typed: --help, and what cannot work, of which nothing is written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import accuracy
import fused_accuracy
import generative
import measuring
import pytest
import speedruns
import sweeps

import cifarblocks
from cifarblocks.checkpoints.own import Card
from cifarblocks.training.run_folder.weights import save_weights
from cifarblocks.training.stopping import exit_status

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [path for path in FILES if 'if __name__ == "__main__":' in path.read_text()]
# All in one process, for most of the time of a script that is asked for help is that of importing torch.
ASK_ALL = """
import contextlib, io, json, runpy, sys
from pathlib import Path
answers = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    printed, status = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as leaving:
            status = leaving.code
    answers[Path(script).name] = [status, printed.getvalue()]
    print(json.dumps(answers), flush=True)
"""


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def first_sentence(script):
    docstring = script.read_text().removeprefix('"""')
    return docstring[: docstring.index(".") + 1]


def test_every_script_says_what_it_does_and_does_nothing():
    kept = (ROOT / "benchmarks" / "results", ROOT / "docs")
    before = contents(*kept)
    paths = [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", ASK_ALL, *map(str, SCRIPTS)]
    asked = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert asked.returncode == 0, asked.stderr
    answers = json.loads(asked.stdout.splitlines()[-1])
    for script in SCRIPTS:
        status, printed = answers[script.name]
        assert status == 0, script.name
        assert printed.startswith(f"usage: {script.name} "), script.name
        assert first_sentence(script) in printed, script.name
    assert contents(*kept) == before


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of the results that are committed; returns it and what is in it."""
    folder = tmp_path / "results"
    shutil.copytree(measuring.RESULTS, folder)
    monkeypatch.setattr(measuring, "RESULTS", folder)
    monkeypatch.setattr(generative, "PAGES", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def refused(capsys, work):
    """The sentence with which a command line is refused."""
    try:
        status = work()
    except SystemExit as leaving:
        status = leaving.code
    lines = capsys.readouterr().err.splitlines()
    assert (status, len(lines)) == (2, 1), lines
    return lines[0]


def status_of(module, *arguments):
    """The exit status of a script that collects runs, as its last lines have it."""
    command = f"{module.__name__}.py"
    return exit_status(command, lambda: module.main(list(map(Path, arguments))), "")


def seed(**changes):
    first = json.loads((ROOT / "benchmarks" / "results" / "speedrun.json").read_text())[0][0]
    return {key: value for key, value in (first | changes).items() if value is not None}


def test_the_seeds_of_a_folder_are_a_line(results):
    folder = Path("runs")
    folder.mkdir()
    for number, top1 in enumerate((88.0, 90.0)):
        (folder / f"seed_{number}.json").write_text(json.dumps(seed(seed=number, top1=top1)))
    assert status_of(speedruns, "runs") == 0
    assert [[run["top1"] for run in runs] for runs in json.loads((results / "speedrun.json").read_text())] == [[88, 90]]
    assert "| 2 | 89.00 ± 1.41 % | 88.00, 90.00 |" in (results / "speedrun.md").read_text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "FOLDER runs has no seed_*.json"),
        ("{", "runs/seed_1.json is not what a run wrote: Expecting property name"),
        ("[3]", "runs/seed_1.json is not what a run wrote: "),
        (json.dumps({"options": 3}), "runs/seed_1.json is not what a run wrote: 'images'"),
        (json.dumps(seed(top1=None)), "runs/seed_1.json is not what a run wrote: 'top1'"),
        (json.dumps(seed(seconds="long")), "runs/seed_1.json is not what a run wrote: "),
        (json.dumps(seed(options={"data": 3, "target": "88"})), "runs/seed_1.json is not what a run wrote: "),
    ],
)
def test_what_is_no_seed_is_refused_before_the_record_is_written(results, capsys, content, sentence):
    before = contents(results)
    Path("runs").mkdir()
    if content is not None:
        Path("runs/seed_0.json").write_text(json.dumps(seed()))
        Path("runs/seed_1.json").write_text(content)
    assert refused(capsys, lambda: status_of(speedruns, "runs")).startswith(f"speedruns.py: error: {sentence}")
    assert contents(results) == before


@pytest.mark.parametrize(
    ("module", "model", "key"),
    [(accuracy, "eca_resnet_20", "eca_resnet_20_cifar10_jpeg_5_epochs"), (generative, "vae", "vae")],
)
def test_runs_are_copied_once_all_of_them_are_read(results, capsys, module, model, key):
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
    for bad, sentence in (
        (broken, f"{broken}/summary.json is not what a run wrote: "),
        ("none", "none/summary.json: No"),
    ):
        wrong = refused(capsys, lambda bad=bad: status_of(module, str(run), str(bad)))
        assert wrong.startswith(f"{module.__name__}.py: error: {sentence}")
    assert contents(results) == before
    assert status_of(module, str(run)) == 0
    assert "77" in (results / f"{module.__name__}.md").read_text()
    assert record.keys() <= measuring.read_record(module.__name__).keys()


def test_a_sweep_is_a_record_once_all_of_its_runs_are_complete(results, capsys):
    before = contents(results)
    record = measuring.read_record("optimizer")
    for row in record["rows"]:
        model, optimizer = row["label"].replace("=", "-").split(" ")
        run = Path("runs/optimizer") / model / f"{optimizer}_seed-0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in row["histories"][0]))
        (run / "summary.json").write_text(json.dumps(row["summaries"][0]))
    assert refused(capsys, lambda: status_of(sweeps, "runs")).startswith("sweeps.py: error: FOLDER must be named")
    assert status_of(sweeps, "runs/optimizer") == 0
    assert contents(results) == before
    (run / "summary.json").unlink()
    sentence = f"sweeps.py: error: FOLDER runs/optimizer lacks {run.parent.name}/{run.name}"
    assert refused(capsys, lambda: status_of(sweeps, "runs/optimizer")) == sentence


def test_a_run_without_its_pictures_is_refused(results, capsys):
    run = Path("run")
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(measuring.read_record("generative")["acgan"]))
    before = contents(results)
    assert refused(capsys, lambda: status_of(generative, "run")) == "generative.py: error: RUN run has no samples*.png"
    assert contents(results) == before


def test_weights_that_cannot_be_scored_are_refused(results, capsys):
    before = contents(results)
    arguments = {"num_classes": 10, "image_size": [32, 32]}
    card = Card("cnn", arguments, list("abcdefghij"), (32, 32), [0.5] * 3, [0.25] * 3, "float32", "letters", 1)
    save_weights(Path("letters.safetensors"), cifarblocks.create_model("cnn", **arguments), card)
    Path("text.safetensors").write_text("no weights")
    for weights, data, sentence in (
        (
            "none.safetensors",
            "digits",
            "--weights none.safetensors cannot be used as weights that cifarblocks train wrote: ",
        ),
        (
            "text.safetensors",
            "digits",
            "--weights text.safetensors cannot be used as weights that cifarblocks train wrote: ",
        ),
        ("letters.safetensors", "faces", "--data must be digits, cifar10, cifar100 or folder:PATH, got 'faces'"),
        ("letters.safetensors", "digits", "--data digits has the classes ['0', "),
    ):
        wrong = refused(capsys, lambda w=weights, d=data: fused_accuracy.main(["--weights", w, "--data", d]))
        assert wrong.startswith(f"fused_accuracy.py: error: {sentence}")
    wrong = refused(capsys, lambda: fused_accuracy.main(["--data", "digits"]))
    assert wrong == "fused_accuracy.py: error: the following arguments are required: --weights"
    assert contents(results) == before


def test_a_command_line_is_read_by_its_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/speedruns.py"])
    assert measuring.typed("What it does.") == measuring.typed("What it does.", "NETWORK") == []
    wrong = refused(capsys, lambda: measuring.typed("What it does.", "FOLDER", "+"))
    assert wrong == "speedruns.py: error: the following arguments are required: FOLDER"
    monkeypatch.setattr(sys, "argv", ["benchmarks/blocks.py", "ECA", "GnConv"])
    assert measuring.typed("What it does.", "BLOCK") == ["ECA", "GnConv"]
    wrong = refused(capsys, lambda: measuring.typed("What it does."))
    assert wrong == "blocks.py: error: unrecognized arguments: ECA GnConv"
