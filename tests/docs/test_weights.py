"""What docs/weights.md says to type works, on an image of a seven."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from cifarblocks.cli.main import main
from cifarblocks.pretrained import FOLDER, TEST_VECTOR

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def photo(tmp_path, monkeypatch):
    """An empty folder with the image of the test vector."""
    monkeypatch.chdir(tmp_path)
    pixels = load_file(FOLDER / "eca_resnet_20.digits" / TEST_VECTOR)["image"][0].permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save("photo.png")


def test_the_python_prints_what_it_says():
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("pycon")), {}, "weights.md", "weights.md", 0)
    assert len(test.examples) >= 7
    assert doctest.DocTestRunner().run(test).failed == 0


def test_list_prints_what_it_says(capsys):
    (listed,) = blocks("console")
    command, _, printed = listed.partition("\n")
    assert main(shlex.split(command)[2:]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_the_commands_run_and_their_files_are_used_as_it_says(capsys, signals):
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert capsys.readouterr().out.splitlines()[-1].startswith("photo.png: 7 ")
    for code in blocks("python"):
        if "model.onnx" in code or "model.pt2" in code:
            exec(code, {})
    assert capsys.readouterr().out.splitlines() == ["7", "torch.Size([4, 10])"]
