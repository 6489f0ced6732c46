"""Each kind of fault, drawn from seeds: some hundred cases here, tens of thousands with `make storm`.

A kind is a file of this folder with `case(seed)`, which raises where something is wrong. What it draws from, blocks,
networks or options, it walks itself, so that a new one is in it without being named.
"""

from importlib import import_module
from pathlib import Path

import pytest

KINDS = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("test_", "_")))


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_of_a_kind_finds_anything(kind, request):
    module = import_module(kind)
    cases = request.config.getoption("cases") // getattr(module, "RARE", 1)
    if not cases:
        pytest.skip(f"one case of it in {module.RARE} of the others")
    found = {}
    for seed in range(cases):
        try:
            module.case(seed)
        except Exception as error:
            found[seed] = f"{type(error).__name__}: {error}"
    listed = "\n".join(f"{kind}.case({seed}): {error}" for seed, error in list(found.items())[:50])
    assert not found, f"{len(found)} of {cases} cases\n{listed}"
