"""The import law: a file imports its own floor or any below, never above; the core needs torch, einops, safetensors."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cifarblocks"
FLOORS = {
    "leaving": 0,
    "registry": 0,
    "copying": 0,
    "macs": 0,
    "native": 0,
    "blocks": 1,
    "models": 2,
    "accelerating": 3,
    "fused_blocks": 3,
    "fusing": 3,
    "checkpoints": 3,
    "creating": 3,
    "pretrained": 3,
    "__init__": 3,
    "training": 4,
    "cli": 5,
    "__main__": 5,
}
OPEN_ROOMS = tuple(f"cifarblocks.{room}" for room in ("blocks", "checkpoints", "pretrained", "training", "cli"))


# Files of the core that need more, and that the door does not import.
MORE = {
    "checkpoints/hub.py": {"huggingface_hub"},
    "checkpoints/images.py": {"PIL"},
    "checkpoints/onnx_files.py": {"onnxruntime"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(parts: tuple[str, ...]) -> int:
    return FLOORS[parts[0] if parts else "__init__"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


WITHIN = [str(path.relative_to(SOURCE)) for path in files(SOURCE)]
CORE = [path for path in WITHIN if floor(Path(path).with_suffix("").parts) < 4]
PATHS = {f"cifarblocks.{'.'.join(Path(path).with_suffix('').parts)}".removesuffix(".__init__"): path for path in WITHIN}
DOORS = {"cifarblocks", "cifarblocks.blocks", "cifarblocks.models"}  # for those outside
BESIDE = [str(path.relative_to(ROOT)) for folder in ("examples", "benchmarks") for path in files(ROOT / folder)]


@pytest.mark.parametrize("path", WITHIN)
def test_no_file_imports_from_a_floor_above_its_own(path):
    own = floor(Path(path).with_suffix("").parts)
    for name in imports(SOURCE / path):
        top, *parts = name.split(".")
        if top == "cifarblocks" and parts and parts[0] in FLOORS:
            assert floor(tuple(parts)) <= own, f"{path} (floor {own}) imports {name}"
        elif top == "cifarblocks":  # the door, or a name that it has
            assert own >= 4 or path == "__init__.py", f"{path} imports the door from inside"


def test_there_is_no_import_circle():
    graph = {}
    for module, path in PATHS.items():
        # A part may import the door once that is whole.
        graph[module] = (imports(SOURCE / path) & PATHS.keys()) - {module, "cifarblocks"}
    TopologicalSorter(graph).prepare()


def test_every_name_is_imported_from_where_it_is_defined():
    homes = {module: defined(SOURCE / path) for module, path in PATHS.items()}
    for path in [SOURCE / path for path in WITHIN] + [
        path for folder in ("examples", "benchmarks", "docs", "tests") for path in files(ROOT / folder)
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in PATHS:
                for name in ("__all__" if alias.name == "*" else alias.name for alias in node.names):
                    home = name in homes[node.module] or f"{node.module}.{name}" in PATHS
                    assert home or (node.module in DOORS and SOURCE not in path.parents), f"{path}: {name}"


def defined(path: Path) -> set[str]:
    """Names of the functions, classes and values of a module, without what it imports and other names for that."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not isinstance(node.value, ast.Name):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names


@pytest.mark.parametrize("path", CORE)
def test_the_core_imports_torch_einops_and_safetensors_alone(path):
    # safetensors only inside the function that reads such a file: importing the door does not import it, see below.
    allowed = set(sys.stdlib_module_names) | {"torch", "einops", "cifarblocks", "safetensors"} | MORE.get(path, set())
    assert {name.split(".")[0] for name in imports(SOURCE / path)} <= allowed


@pytest.mark.parametrize("path", BESIDE)
def test_examples_and_benchmarks_use_the_doors(path):
    public = {"cifarblocks", *(f"cifarblocks.{name}" for name in door_names())}
    for name in imports(ROOT / path):
        if name.split(".")[0] == "cifarblocks":
            assert name in public or name.startswith(OPEN_ROOMS)


def door_names() -> list[str]:
    import cifarblocks

    return cifarblocks.__all__


def test_importing_the_door_costs_no_more_than_importing_torch():
    """In a process of its own, for this one has imported more."""
    code = "import sys, torch; before = set(sys.modules); import cifarblocks; print(*(sys.modules.keys() - before))"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")  # no warning either
    new = result.stdout.split()
    assert {name.split(".")[0] for name in new} - set(sys.stdlib_module_names) - {"torch"} == {"cifarblocks", "einops"}
    assert len([name for name in new if name.startswith("torch.")]) <= 1  # torch.utils.checkpoint
