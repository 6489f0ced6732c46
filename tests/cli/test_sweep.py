"""cifarblocks sweep: grids, the runs that are trained or skipped, and the files of results."""

import csv
import json
import os
import signal
import statistics
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import refuses
from run_folders import summary

import cifarblocks
from cifarblocks.cli import sweep
from cifarblocks.training.compare import equal_time
from cifarblocks.training.compare import launch as launching
from cifarblocks.training.compare.grid import read_grid
from cifarblocks.training.compare.launch import command_line
from cifarblocks.training.compare.table import Row, markdown_table
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.parse import read_options
from cifarblocks.training.pictures.compare import draw_bars, draw_learning_curves, draw_pareto_front, pareto_front

GRIDS = sorted((Path(launching.__file__).with_name("grids")).glob("*.toml"))


def grid(text: str, **changes: object):
    Path("grid.toml").write_text(text)
    return read_grid(Path("grid.toml"), changes)


def events(word: str, output: str = "runs/grid") -> list[tuple[float, str]]:
    lines = [line.split() for line in (Path(output) / "events").read_text().splitlines()]
    return [(float(moment), name) for moment, event, name in lines if event == word]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_run_of_the_shipped_grids_is_one_that_train_takes(path):
    for run in read_grid(path, {}).runs:
        options = read_options(command_line(run.settings))
        assert options.model == run.settings["model"]
        assert options.model_argument == {
            key.removeprefix("model-argument."): value for key, value in run.settings.items() if "." in key
        }


def test_the_ablations_have_the_parameters_that_were_published():
    """docs: 100 classes; the counts of the student project whose ablations these are."""
    published = {
        **{f"ecanet20_fixed_k{kernel}": 278_324 + 9 * kernel for kernel in (3, 5, 7, 9)},
        "ecanet20_adaptive": 278_351,
        "ghost_resnet_20 ratio=2": 147_716,
        "ghost_resnet_20 ratio=3": 107_636,
        "ghost_resnet_20 ratio=4": 82_412,
        "improved_resnet20_convnext": 174_868,
        "improved_resnet20_convnext drop_path=0.0": 174_868,
        "improved_resnet20_convnext convolution=dense_3x3": 1_887_892,
        "improved_resnet20_convnext expansion=1": 38_644,
    }
    counts = {}
    for run in (run for path in GRIDS for run in read_grid(path, {"seed": 0}).runs):
        if run.label in published and run.label not in counts:
            options = read_options(command_line(run.settings))
            with torch.device("meta"):
                model = cifarblocks.create_model(options.model, **options.model_argument)
            counts[run.label] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == published


@pytest.mark.parametrize("step", [30, pytest.param(1, marks=pytest.mark.slow)])
def test_the_leaderboard_has_every_network_for_small_images_below_150_million_multiply_adds(step):
    """Every thirtieth network, and all."""
    listed = [run.settings["model"] for run in read_grid(GRIDS[-1].with_name("leaderboard.toml"), {}).runs]
    assert len(set(listed)) == len(listed)
    looked_at = cifarblocks.list_models()[::step]
    expected = set()
    for name in looked_at:
        with torch.device("meta"):
            model = cifarblocks.create_model(name, num_classes=10)
        small = model.image_size == (32, 32) and all(32 // info.stride >= 4 for info in model.feature_info)
        if small and cifarblocks.count_macs(model) < 150e6:
            expected.add(name)
    assert set(listed) & set(looked_at) == expected, "leaderboard.toml has to have the same"


def test_lists_multiply_and_blocks_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
        options = {epochs = 3, seed = [0, 1]}
        runs = [
            {model = ["mlp", "cnn"], lr = [0.1, 0.2]},
            {model = "ghost_resnet_20", model_argument = {ratio = [2, 3]}, final = true},
        ]
    """
    runs = grid(text).runs
    assert len(runs) == 2 * 2 * 2 + 2 * 2
    assert [(run.label, run.name) for run in runs[:3]] == [
        ("mlp lr=0.1", "lr-0.1_seed-0"),
        ("mlp lr=0.1", "lr-0.1_seed-1"),
        ("mlp lr=0.2", "lr-0.2_seed-0"),
    ]
    assert command_line(runs[-1].settings) == [
        "--epochs", "3", "--model", "ghost_resnet_20", "--model-argument", "ratio=3", "--final", "--seed", "1",
    ]  # fmt: skip
    assert runs[-1].label == "ghost_resnet_20 ratio=3 final=True"

    changed = grid(text, lr=0.5, seed=[4], epochs=1).runs
    assert [(run.settings["model"], run.name) for run in changed] == [
        ("mlp", "seed-4"),
        ("cnn", "seed-4"),
        ("ghost_resnet_20", "ratio-2_final-True_seed-4"),
        ("ghost_resnet_20", "ratio-3_final-True_seed-4"),
    ]
    assert {(run.settings["lr"], run.settings["epochs"]) for run in changed} == {(0.5, 1)}


def test_false_leaves_a_switch_out_and_an_option_of_several_numbers_is_a_list_in_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = grid("runs = [{model = 'mlp', final = [true, false], mean = [[0.5, 0.4, 0.3]]}]").runs
    assert [command_line(run.settings) for run in runs] == [
        ["--model", "mlp", "--final", "--mean", "0.5", "0.4", "0.3", "--seed", "0"],
        ["--model", "mlp", "--mean", "0.5", "0.4", "0.3", "--seed", "0"],
    ]
    assert read_options(command_line(runs[1].settings)).mean == [0.5, 0.4, 0.3]


RUN = "runs = [{model = 'mlp'}]"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"colour = 1\n{RUN}", ["grid.toml", "colour"]),
        ("runs = [{model = 'mlp', learning-rate = 1}]", ["mlp", "--learning-rate"]),
        ("runs = [{model = 'mlp', model-argument.width = 1}]", ["mlp", "width"]),
        ("runs = [{model = 'mlq'}]", ["mlq", "mlp"]),
        ("runs = [{lr = 1}]", ["grid.toml", "model"]),
        ("runs = [{model = 'mlp', lr = 'fast'}]", ["--lr", 0, "fast"]),
        ("runs = [{model = 'mlp', name = 'a'}]", ["grid.toml", "name", "a"]),
        ("runs = [{model = 'mlp', lr = []}]", ["grid.toml", "lr"]),
        ("runs = [{model = 'mlp'}, {model = 'mlp'}]", ["grid.toml", "mlp", "seed-0"]),
        ("runs = 3", ["grid.toml", "runs", 3]),
        ("runs = [", ["grid.toml", "TOML"]),
        (f"equal-time = {{model = 'mlp'}}\n{RUN}", ["equal-time", "model", "epochs"]),
        ("equal-time = {model = 'mlp', epochs = 2}\nruns = [{model = 'mlp', epochs = 3}]", ["epochs"]),
        (f"equal-time = {{model = 'mlq', epochs = 2}}\n{RUN}", ["equal-time", "--model", "mlq"]),
        (f"equal-time = {{model = 'mlp', epochs = 0}}\n{RUN}", [1, 0]),
    ],
)
def test_what_a_grid_may_not_say_is_named(text, named, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(text)
    refused(sweep.main, ["grid.toml"], "cifarblocks sweep: error", *named)
    assert not Path("runs").exists()


def test_a_missing_grid_is_named(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    refused(sweep.main, ["nowhere.toml"], "nowhere.toml", "eca_kernel")


def test_runs_go_on_after_a_failure_and_what_is_complete_is_skipped(stand_in, capsys):
    Path("grid.toml").write_text("options = {epochs = 1}\nruns = [{model = 'mlp', lr = [13, 1, 2]}]")
    assert sweep.main(["grid.toml"]) == 1
    printed = capsys.readouterr()
    assert [name for _, name in events("begins")] == ["lr-13_seed-0", "lr-1_seed-0", "lr-2_seed-0"]
    assert printed.err == ("failed: mlp/lr-13_seed-0: 13 is unlucky (more in runs/grid/mlp/lr-13_seed-0.log)\n")
    assert "lr-1_seed-0 ends with test top-1 90.00 %" in printed.out
    assert sweep.main(["grid.toml"]) == 1
    assert [name for _, name in events("begins")][3:] == ["lr-13_seed-0"]
    assert "3 runs, 2 of them complete" in capsys.readouterr().out


def meanwhile(action) -> None:
    threading.Thread(target=action, daemon=True).start()


def wait_until(condition) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def held(stand_in):
    """Runs wait after their first epoch until this file is removed."""
    file = Path("runs/grid/hold")
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_run_at_a_time_as_was_said(held, jobs):
    Path("grid.toml").write_text("options = {epochs = 1}\nruns = [{model = 'mlp', lr = [1, 2, 3, 4]}]")
    begun = []

    def release():
        wait_until(lambda: Path("runs/grid/events").exists() and len(events("begins")) == jobs)
        time.sleep(0.5)
        begun.append(len(events("begins")))
        held.unlink()

    meanwhile(release)
    assert sweep.main(["grid.toml", "--jobs", str(jobs)]) == 0
    assert begun == [jobs]
    assert len(events("ends")) == 4


def test_ctrl_c_stops_every_run_and_says_how_to_go_on(held, capsys):
    Path("grid.toml").write_text("options = {epochs = 2}\nruns = [{model = 'mlp', lr = [1, 2, 3]}]")

    def interrupt():
        wait_until(lambda: len(list(Path("runs/grid/mlp").glob("*/metrics.jsonl"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    meanwhile(interrupt)
    assert sweep.main(["grid.toml", "--jobs", "2"]) == 130
    assert "interrupted; repeat the command to continue" in capsys.readouterr().err
    assert {name for _, name in events("stopped")} == {"lr-1_seed-0", "lr-2_seed-0"}
    assert not events("ends")
    held.unlink()
    assert sweep.main(["grid.toml"]) == 0
    assert len(events("ends")) == 3


def test_a_run_begun_with_other_options_is_refused_before_anything_runs(stand_in, refused):
    Path("grid.toml").write_text("options = {epochs = 1}\nruns = [{model = 'mlp'}]")
    folder = Path("runs/grid/mlp/seed-0")
    folder.mkdir(parents=True)
    options = read_options(["--model", "mlp", "--epochs", "7"]).recorded()
    (folder / "configuration.json").write_text(json.dumps({"options": options}, default=str))
    refused(sweep.main, ["grid.toml"], "runs/grid/mlp/seed-0", "epochs", 7, 1)
    assert sweep.main(["grid.toml", "--set", "epochs=7"]) == 0


def test_equal_time_gives_a_network_four_times_as_slow_a_fourth_of_the_epochs(stand_in, capsys):
    text = "equal-time = {model = 'mlp', epochs = 6}\nruns = [{model = ['mlp', 'cnn', 'resnet_20'], seed = [0, 1]}]"
    Path("grid.toml").write_text(text)
    assert sweep.main(["grid.toml"]) == 0
    done = {
        model: len((Path("runs/grid") / model / "seed-1" / "metrics.jsonl").read_text().splitlines())
        for model in ("mlp", "cnn", "resnet_20")
    }
    assert done == {"mlp": 6, "cnn": 2, "resnet_20": 2}  # 6 · 250 / 1000 = 1.5, to the even number
    record = json.loads(Path("runs/grid/speeds.json").read_text())
    assert sorted(record["speeds"].values()) == pytest.approx([250, 250, 1000])
    assert record["machine"]["cores"] == os.cpu_count()
    capsys.readouterr()
    assert sweep.main(["grid.toml"]) == 0
    assert "images/s" not in capsys.readouterr().out
    assert not list(Path("runs/grid").glob("speed-*"))

    record["machine"]["cpu"] = "another"
    Path("runs/grid/speeds.json").write_text(json.dumps(record))
    assert sweep.main(["grid.toml"]) == 0
    assert capsys.readouterr().out.count("images/s") == 3


@pytest.mark.parametrize(
    "values",
    ["mean = [[0.5, 0.5, 0.5, '--output', '/tmp/elsewhere']]", "data = '--output'", "std = [['-x', 0.5, 0.5]]"],
)
def test_a_value_of_a_grid_is_never_read_as_an_option(stand_in, refused, values):
    Path("grid.toml").write_text(f"runs = [{{model = '../../escape', {values}}}]")
    refused(sweep.main, ["grid.toml"], values.partition(" ")[0], "-")
    assert not Path("runs").exists()


def test_a_speeds_file_of_somebody_elses_is_left_alone(stand_in, refused):
    Path("grid.toml").write_text("equal-time = {model = 'mlp', epochs = 2}\nruns = [{model = 'mlp'}]")
    Path("runs/grid").mkdir(parents=True)
    for content in ("[1]", '{"mine": 1}'):
        Path("runs/grid/speeds.json").write_text(content)
        refused(sweep.main, ["grid.toml"], "runs/grid/speeds.json")
        assert Path("runs/grid/speeds.json").read_text() == content


def test_a_damaged_configuration_is_left_to_the_run_unless_it_is_finished(stand_in, refused):
    Path("grid.toml").write_text("options = {epochs = 1}\nruns = [{model = 'mlp'}]")
    path = Path("runs/grid/mlp/seed-0/configuration.json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert sweep.main(["grid.toml"]) == 0
    assert len(events("ends")) == 1
    refused(sweep.main, ["grid.toml"], path)


def test_a_result_that_was_changed_is_told_before_anything_runs(stand_in, refused):
    Path("grid.toml").write_text("options = {epochs = 1}\nruns = [{model = 'mlp', lr = [1, 2]}]")
    path = Path("runs/grid/mlp/lr-2_seed-0/summary.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"test_top1": 9')
    refused(sweep.main, ["grid.toml"], path, "--resume")
    assert not Path("runs/grid/events").exists()


def test_equal_time_leaves_the_users_own_folders_alone(stand_in):
    Path("grid.toml").write_text("equal-time = {model = 'mlp', epochs = 2}\nruns = [{model = 'mlp'}]")
    own = Path("runs/grid/speeds/notes.txt")
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert sweep.main(["grid.toml"]) == 0
    assert own.read_text() == "mine"


def test_no_network_gets_less_than_an_epoch():
    assert equal_time.epochs_in_equal_time(1, 1000, 6) == 1


def row(label: str, macs: int, *top1: float, model: str = "mlp") -> Row:
    base = {"model": model, "multiply_adds": macs, "parameters": 5, "epochs": 2, "seconds": 3.0, "data": "digits",
            "training_images": 9, "versions": {"torch": "2"},
            "configuration": {"machine": {"cpu": "a", "threads": 1}}}  # fmt: skip
    history = [
        {"epoch": epoch, "validation_loss": 1 / epoch, "validation_top1": 50.0 + epoch, "seconds": 1.0}
        for epoch in (1, 2)
    ]
    summaries = [{**base, "test_top1": value, "validation_top1": 100 - value} for value in top1]
    return Row(label, summaries, [history] * len(top1))


def test_the_pareto_front_is_what_no_other_row_surpasses():
    generator = torch.Generator().manual_seed(0)
    points = [tuple(point) for point in torch.randint(1, 30, (200, 2), generator=generator).tolist()]
    rows = [row(str(number), *point) for number, point in enumerate(points)]
    best = {(m, t) for m, t in points if not any(x <= m and y >= t and (x, y) != (m, t) for x, y in points)}
    front = [(r.multiply_adds, r.top1) for r in pareto_front(rows)]
    assert set(front) == best
    assert front == sorted(front)


def test_the_table_has_the_mean_and_the_deviation_of_a_sample():
    table = markdown_table("grid", [row("one", 10, 70.0), row("three", 1000, 80.0, 81.0, 85.0)], ["mlp/lost"])
    lines = table.splitlines()
    deviation = statistics.stdev([80, 81, 85])
    assert f"| three | 82.00 ± {deviation:.2f} % | 18.00 ± {deviation:.2f} % | 3 | 2 | 5 | 1,000 | 3 |" in lines
    assert "| one | 70.00 % | 30.00 % | 1 | 2 | 5 | 10 | 3 |" in lines
    assert lines.index("- mlp/lost") > lines.index("Not complete:")


def test_labels_lie_on_each_other_nowhere():
    from matplotlib.transforms import Bbox

    from cifarblocks.training.pictures.compare import empty_figure, label_points

    figure = empty_figure("crowd", 11, 7)
    axes = figure.subplots()
    points = (torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.2, 1.0])).tolist()
    axes.plot(*zip(*points, strict=True), "o")
    axes.margins(0.4, 0.1)
    label_points(axes, points, [f"eca_resnet_{number}_of_some" for number in range(40)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 40
    for number, box in enumerate(boxes):
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        inner = Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)
        assert not any(inner.overlaps(other) for other in boxes[:number])


def test_pictures_of_one_row_and_of_many_families_are_drawn(tmp_path):
    names = ["mlp", "resnet_20", "hornet_tiny_cifar"] * 4
    many = [row(f"m{n}", 10**6 * (n + 1), 50.0 + n, 52.0 + n, model=name) for n, name in enumerate(names)]
    for rows in (many[:1], many):
        for draw in (draw_pareto_front, draw_learning_curves, draw_bars):
            draw(tmp_path / "picture.png", "grid", rows)
            with Image.open(tmp_path / "picture.png") as picture:
                assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert [one.family for one in many[:3]] == ["simple", "resnet", "hornet"]


def test_rows_at_the_same_point_share_a_label(tmp_path):
    rows = [row("one", 10**6, 60.0), row("two", 10**6, 60.0), row("other", 2 * 10**6, 70.0)]
    figure = draw_pareto_front(tmp_path / "pareto.png", "grid", rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["one\ntwo", "other"]


def test_where_a_run_has_no_validation_all_are_drawn_by_their_training(tmp_path):
    rows = [row("held out", 10, 70.0), row("final", 20, 80.0)]
    for number, each in enumerate(rows):
        for history in each.histories:
            for line in history:
                line |= {"train_loss": 2.0 + number, "train_top1": 60.0 + number}
    for line in rows[1].histories[0]:
        line |= {"validation_loss": None, "validation_top1": None}
    loss, top1 = draw_learning_curves(tmp_path / "curves.png", "grid", rows).axes
    assert (loss.get_ylabel(), top1.get_ylabel()) == ("train loss", "train top-1 (%)")
    assert sorted(list(line.get_ydata()) for line in loss.lines if len(line.get_ydata())) == [[2.0, 2.0], [3.0, 3.0]]


def test_a_sweep_of_real_runs_ends_with_its_table(command):
    """Two seeds of one network on the digits at once."""
    Path("tiny.toml").write_text("options = {epochs = 1, image-size = 8}\nruns = [{model = 'mlp', seed = [0, 1]}]")
    printed = command("sweep", "tiny.toml", "--jobs", 2).stdout
    output = Path("runs/tiny")
    summaries = [summary(output / "mlp" / f"seed-{seed}") for seed in (0, 1)]
    values = [each["test_top1"] for each in summaries]
    begin = "cifarblocks train --epochs 1 --image-size 8 --model mlp --seed 0 "
    assert summaries[0]["configuration"]["command"].startswith(begin)
    with (output / "table.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["test_top1_mean"]) == pytest.approx(statistics.mean(values))
    assert float(line["test_top1_std"]) == pytest.approx(statistics.stdev(values))
    assert (line["parameters"], line["seeds"], line["family"]) == (str(summaries[0]["parameters"]), "2", "simple")
    assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %" in (output / "table.md").read_text()
    assert (output / "table.md").read_text() in printed
    for name in ("pareto", "curves", "bars"):
        assert (output / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_and_repeated_equals_one_that_is_not(script, tmp_path):
    (tmp_path / "two.toml").write_text("options = {epochs = 12}\nruns = [{model = 'mlp', seed = [0, 1]}]")
    script("sweep", "two.toml", "--output", "whole")
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import glob, os, signal, sys, threading, time\n"
        "from cifarblocks.cli import sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's & has ignored
        "def interrupt():\n"
        "    while not glob.glob('cut/mlp/seed-0/metrics.jsonl'): time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "sys.exit(sweep.main(['two.toml', '--output', 'cut']))\n"
    )
    script(str(driver), status=130)
    assert not (tmp_path / "cut" / "mlp" / "seed-0" / "summary.json").exists()
    script("sweep", "two.toml", "--output", "cut")
    assert "resuming run" in (tmp_path / "cut" / "mlp" / "seed-0.log").read_text()
    for seed in (0, 1):
        ours, theirs = (
            json.loads((tmp_path / name / "mlp" / f"seed-{seed}" / "summary.json").read_text())
            for name in ("cut", "whole")
        )
        assert ours["test_loss"] == theirs["test_loss"]


def test_a_grid_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_bytes(b"\xff\xfe")
    with refuses(UserError, path):
        read_grid(path, {})


def test_a_grid_that_is_no_file_is_refused_unopened(no_files, refused):
    for kind, path in no_files.items():
        refused(sweep.main, [path], path, f"a {kind}")


def test_a_run_whose_batches_few_images_made_smaller_is_not_another(command, image_folder):
    arguments = ["--model", "mlp", "--data", "shades", "--epochs", "1", "--name", "a"]
    command("train", *arguments)
    folder = Path("runs/mlp/a")
    launching.check_same_options(folder, read_options(arguments))
    for typed in (["--batch-size", "16"], ["--lr", "0.5"]):
        with refuses(UserError, folder, typed[0].removeprefix("--").replace("-", "_"), typed[1]):
            launching.check_same_options(folder, read_options([*arguments, *typed]))
