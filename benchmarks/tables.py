"""Write every table of benchmarks/results anew from the record beside it; nothing is measured.

    python benchmarks/tables.py

For a change of a heading or a column. Takes some seconds.
"""

from importlib import import_module

from measuring import RESULTS, read_record, typed

SCRIPTS = {"speedrun": "speedruns", "layer_scale": "sweeps", "leaderboard": "sweeps", "optimizer": "sweeps"}


def table(name: str) -> str:
    """Return the table of `results/name.json`, made by the script that writes that."""
    written: str = import_module(SCRIPTS.get(name, name)).table(read_record(name))
    return written


if __name__ == "__main__":
    typed(__doc__)
    for path in sorted(RESULTS.glob("*.json")):
        path.with_suffix(".md").write_text(table(path.stem))
