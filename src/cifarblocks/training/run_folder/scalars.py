"""The metrics of each epoch for TensorBoard."""

from pathlib import Path
from typing import Any

from cifarblocks.training.errors import UserError


class ScalarLog:
    """Writer of lines of metrics.jsonl to the folder tensorboard/ of a run.

    Args:
        folder: folder of the run.
        epochs: number of finished epochs; records of later epochs by an earlier process are replaced.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise UserError(f"--tensorboard: {error.name} is missing; pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Write each number of a line, and flush."""
        for name, value in line.items():
            if value is not None and name != "epoch":
                self.writer.add_scalar(name, value, line["epoch"])
        self.writer.flush()
