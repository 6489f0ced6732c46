import subprocess
import sys

import pytest

import cifarblocks
from cifarblocks.cli.main import main


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


@pytest.mark.parametrize(("name", "package"), [("predict", "pillow"), ("train", "cifarblocks[train]")])
def test_a_package_that_is_missing_is_named(name, package):
    code = "import sys\nsys.modules.update(PIL=None, torchvision=None)\nfrom cifarblocks.cli.main import main\n"
    command = [sys.executable, "-c", code + f"sys.exit(main([{name!r}, '--help']))"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr == f"cifarblocks {name} needs more packages: pip install '{package}'\n"
