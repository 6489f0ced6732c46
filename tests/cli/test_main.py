import os
import subprocess
import sys

import pytest

import cifarblocks
from cifarblocks.cli.main import COMMANDS, main


def test_names_are_listed_by_a_wildcard(capsys):
    assert main(["list", "eca_resnet_*"]) == 0
    assert capsys.readouterr().out.split() == cifarblocks.list_models("eca_resnet_*")


def test_a_model_is_shown_part_by_part(capsys):
    assert main(["show", "eca_resnet_20"]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.startswith(("stem", "stages", "head", "all"))]
    numbers = [[int(cell.replace(",", "")) for cell in row[-2:]] for row in rows]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1] == [278_351, 40_819_952]
    assert [row[1] for row in rows if row[0].startswith("stages")] == ["16×32×32", "32×16×16", "64×8×8"]
    assert "https://arxiv.org/abs/1910.03151" in text
    assert "ECA: written from the paper; the authors' code is MIT." in text


def test_an_unknown_name_is_one_sentence_and_status_2(capsys):
    assert main(["show", "eca_resnet_2"]) == 2
    assert "unknown model name 'eca_resnet_2'; did you mean" in capsys.readouterr().err


def run(*lines, **arguments):
    """Run Python lines in a process of their own, in an empty folder."""
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, **arguments)


def test_alone_it_prints_what_there_is_in_ten_lines(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_an_unknown_command_is_one_sentence_and_status_2(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "cifarblocks: error: unknown command 'trian'; did you mean 'train'?\n"
    assert main(["x"]) == 2
    assert "unknown command 'x'; known are list, show, train, " in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cifarblocks {cifarblocks.__version__}\n"


@pytest.mark.parametrize("buffering", [1, -1], ids=["by lines", "all"])
@pytest.mark.parametrize(
    "command", [[], ["list"], ["show", "mlp"], ["list", "--help"], ["sweep", "optimizer", "--dry-run"]]
)
def test_a_reader_that_has_gone_ends_a_command_quietly(command, buffering, monkeypatch, signals, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering) as output:  # whose buffer is flushed once more when it is closed
        monkeypatch.setattr(sys, "stdout", output)
        assert main(command) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cifarblocks {name} ")


def without(*packages):
    return f"import sys; sys.modules.update(dict.fromkeys({packages}))"


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (["train"], ["torchvision"], "cifarblocks[train]"),
        (["finetune", "--weights", "none"], ["torchvision"], "cifarblocks[train]"),
        (["sweep", "grid.toml"], ["matplotlib"], "cifarblocks[train]"),
        (["search"], ["optuna"], "cifarblocks[search]"),
        (["predict", "--weights", "none", "a.png"], ["PIL"], "pillow"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(tmp_path, command, missing, extra):
    lines = without(*missing), "from cifarblocks.cli.main import main", f"sys.exit(main({command}))"
    finished = run(*lines, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr == f"cifarblocks {command[0]} needs more packages: pip install '{extra}'\n"


@pytest.mark.parametrize("command", [["list", "eca_*"], ["show", "mlp"]])
def test_listing_and_showing_need_no_extra(tmp_path, command):
    extras = "torchvision", "numpy", "matplotlib", "PIL", "safetensors", "tqdm", "tensorboard"
    finished = run(
        without(*extras), "from cifarblocks.cli.main import main", f"sys.exit(main({command}))", cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("command", [[], ["--help"], ["train", "--help"], ["train", "--epochs", "none"]])
def test_help_and_mistakes_import_nothing_that_they_do_not_need(tmp_path, command):
    lines = (
        "import sys, torch",
        "before = set(sys.modules)",
        "from cifarblocks.cli.main import main",
        "try:",
        f"    main({command})",
        "except SystemExit:",
        "    pass",
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)",
    )
    new = set(run(*lines, cwd=tmp_path).stderr.splitlines()[-1].split()) - set(sys.stdlib_module_names)
    assert new <= {"cifarblocks", "einops"}
