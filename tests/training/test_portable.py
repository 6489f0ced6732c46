"""Training starts without what Windows lacks: fcntl, SIGHUP, SIGUSR1."""

import subprocess
import sys

WITHOUT = """
import signal, sys, warnings
for name in ("SIGHUP", "SIGUSR1"):
    delattr(signal, name)
sys.modules["fcntl"] = None
warnings.simplefilter("ignore")  # filelock says that it locks by the existence of a file
from cifarblocks.cli import main
sys.exit(main.main(["train", "--model", "mlp", "--epochs", "1", "--share", "0.1", "--name", "one", "--no-test"]))
"""


def test_a_run_is_trained_without_what_posix_alone_has(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "runs" / "mlp" / "one" / "last.safetensors").exists()
