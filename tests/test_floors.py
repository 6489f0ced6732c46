"""The import law: a file imports its own floor or any below, never above, and the core torch and einops alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cifarblocks"
FLOORS = {
    "registry": 0,
    "copying": 0,
    "macs": 0,
    "native": 0,
    "blocks": 1,
    "models": 2,
    "accelerating": 3,
    "fusing": 3,
    "weights": 3,
    "__main__": 4,
    "__init__": 4,
}
EXTRAS = {"torchvision", "timm", "fvcore", "matplotlib", "numpy", "safetensors", "onnx", "PIL", "tqdm"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "cifarblocks"}
    return names


def floor(parts: tuple[str, ...]) -> int:
    return FLOORS[parts[0] if parts else "__init__"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("path", files(SOURCE), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_imports_from_a_floor_above_its_own(path):
    own = floor(path.relative_to(SOURCE).with_suffix("").parts)
    for name in imports(path):
        top, *parts = name.split(".")
        if top == "cifarblocks" and own < 4:
            assert parts, f"{path} imports the door from inside"
            assert floor(tuple(parts)) <= own, f"{path} (floor {own}) imports {name}"


@pytest.mark.parametrize("path", files(SOURCE), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_core_imports_torch_and_einops_alone(path):
    # safetensors only inside the function that reads such a file: importing the door does not import it, see below.
    allowed = set(sys.stdlib_module_names) | {"torch", "einops", "cifarblocks", "safetensors"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize(
    "path", files(ROOT / "examples") + files(ROOT / "benchmarks"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_examples_and_benchmarks_use_the_door(path):
    from_us = {name for name in imports(path) if name.split(".")[0] == "cifarblocks"}
    assert {name for name in from_us if name.count(".") <= 1 and name != "cifarblocks.blocks"} <= {
        f"cifarblocks.{name}" for name in door_names()
    } | {"cifarblocks"}
    assert not {name for name in from_us if name.count(".") > 1 and not name.startswith("cifarblocks.blocks")}


def door_names() -> list[str]:
    import cifarblocks

    return cifarblocks.__all__


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_door_costs_no_more_than_importing_torch():
    ours, torchs = modules_after("import cifarblocks"), modules_after("import torch")
    new = {name.split(".")[0] for name in ours - torchs} - set(sys.stdlib_module_names)
    assert new == {"cifarblocks", "einops"}
    assert not {name.split(".")[0] for name in ours} & (EXTRAS - {name.split(".")[0] for name in torchs})
    assert len([name for name in ours - torchs if name.startswith("torch.")]) <= 1  # torch.utils.checkpoint
